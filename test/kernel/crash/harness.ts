/**
 * The crash harness: the real daemon at work, killed with `kill -9` at moments
 * that nobody chose, started again, and held against what it had promised.
 *
 * A kill comes while requests are under way, in between, or while the daemon
 * is starting. After each, with the daemon dead: nothing is open in the gate
 * that no record explains. After each start: every promise is asked for again,
 * gate and records are one, and all packets are judged (model.ts).
 */
import { cpSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { suspendedNs } from '../../../agent/grants/record.ts';
import { systemClock } from '../../../agent/host.ts';
import { START_MS } from '../../agent.ts';
import { type Child, until } from '../../child.ts';
import { seededRandom } from '../../clock.ts';
import { type Kept, kept, keptByTheDead, liveEntries } from './kept.ts';
import { type Grant, type GrantBody, type Unanswered, Violation } from './model.ts';
import { MS, momentOf, nowUs, SECOND } from './moments.ts';
import { ENTRIES, SETTLED, World } from './world.ts';

const WORKERS = 8;
/** About so many grants are held. */
const HELD = 60;
/** How much of the agent's log of its last lives is kept. */
const LIVES_KEPT = 3;
/** A burst of work is up to so long: one of these. */
const BURSTS_MS = [20, 200, 600] as const;
/** So many requests at once, and a kill in the midst of what they begin. */
const VOLLEY = 24;
const VOLLEY_MS = 40;

export interface Outcome {
  readonly kills: number;
  readonly seconds: number;
  readonly counts: Readonly<Record<string, number>>;
  readonly packets: { readonly sent: number; readonly kept: number; readonly arrived: number };
}

export interface Plan {
  readonly seed: number;
  readonly kills: number;
  /** Stops after so long, whatever is left of the kills. */
  readonly seconds?: number;
  readonly progress?: (line: string) => void;
}

/** @throws Violation with all that is needed to look for its cause: seed, kill, folder */
export async function crash({ seed, kills, seconds = Number.POSITIVE_INFINITY, progress }: Plan): Promise<Outcome> {
  const startedUs = nowUs();
  const harness = await Harness.start(seed);
  const { model, counts } = harness.world;
  const elapsed = () => (nowUs() - startedUs) / SECOND;
  try {
    while (harness.kills < kills && elapsed() < seconds) {
      await harness.round();
      progress?.(`kill ${harness.kills}: ${harness.last}, ${model.sure().length} grants live`);
    }
    await harness.finish();
    const { sent, kept, arrived } = model.judged;
    return { kills: harness.kills, seconds: elapsed(), counts, packets: { sent, kept, arrived } };
  } catch (cause) {
    throw new Violation(
      `seed ${seed}, kill ${harness.kills} (${harness.last}): ${(cause as Error).message}\nkept in ${harness.keep()}`,
      { cause },
    );
  } finally {
    await harness.world.network.close();
  }
}

class Harness {
  readonly world: World;
  kills = 0;
  /** The last kill, in words. */
  last = 'none yet';
  readonly #random;
  /** The agent's log, life by life. */
  readonly #lives: Child[] = [];
  #startMs = 1_000;
  #beacon: Grant | undefined;
  #fault: Error | undefined;

  private constructor(world: World, random: ReturnType<typeof seededRandom>) {
    this.world = world;
    this.#random = random;
  }

  static async start(seed: number): Promise<Harness> {
    const random = seededRandom(seed);
    const world = await World.build(random);
    const harness = new Harness(world, random);
    try {
      await harness.#startAgent();
      await world.bindAll();
      await harness.#light();
      return harness;
    } catch (cause) {
      await world.network.close();
      throw cause;
    }
  }

  /** Work, a kill, a start (perhaps one that is killed as well), and the reckoning. */
  async round(): Promise<void> {
    const kind = (['volley', 'volley', 'volley', 'burst', 'burst', 'idle'] as const)[this.#random.integer(6)];
    const burstMs = this.#random.integer(BURSTS_MS[this.#random.integer(BURSTS_MS.length)] as number);
    const stop = new AbortController();
    const work = Array.from({ length: WORKERS }, () => this.#work(stop.signal));
    await delay(burstMs);
    if (kind === 'burst') await this.#kill(`${burstMs} ms into a burst`);
    stop.abort();
    await Promise.all(work);
    if (kind === 'idle') {
      await delay(this.#random.integer(50));
      await this.#kill('idle');
    }
    if (kind === 'volley') {
      const afterMs = this.#random.integer(VOLLEY_MS);
      const volley = Array.from({ length: VOLLEY }, () => this.#guarded(() => this.#act()));
      await delay(afterMs);
      await this.#kill(`${afterMs} ms after ${VOLLEY} requests at once`);
      await Promise.all(volley);
    }
    if (this.#fault) throw this.#fault;
    this.#verifyLeft();
    while (this.#random.integer(5) < 2) {
      const afterMs = this.#random.integer(this.#startMs);
      this.#lives.push(this.world.agent.launch());
      await delay(afterMs);
      await this.#kill(`${afterMs} ms into a start`);
      this.#verifyLeft();
    }
    await this.#startAgent();
    await this.#verify();
    await this.#judge();
    await this.#light();
    this.world.forgetOld();
  }

  /** The last word: nothing arrives late. */
  async finish(): Promise<void> {
    await this.#judge();
    await this.world.agent.daemon.stop();
  }

  /** Copies all that tells what happened to a folder that stays; returns its name. */
  keep(): string {
    const folder = mkdtempSync(join(tmpdir(), 'mtgate-crash-kept-'));
    cpSync(this.world.agent.folder, folder, { recursive: true, filter: (file) => !file.endsWith('.sock') });
    const log = this.#lives.map(({ lines, errors }) => [...lines, errors].join('\n')).join('\n--- killed\n');
    writeFileSync(join(folder, 'agent.log'), log);
    return folder;
  }

  async #kill(how: string): Promise<void> {
    this.kills += 1;
    this.last = how;
    this.world.tell('kill', { kill: this.kills, how });
    const { daemon } = this.world.agent;
    if (!daemon.running) throw new Violation(`the agent had ended by itself: ${daemon.errors}`);
    await daemon.stop('SIGKILL');
  }

  async #startAgent(): Promise<void> {
    const beganMs = performance.now();
    const { agent } = this.world;
    const starting = agent.launch();
    this.#lives.push(starting);
    this.#lives.splice(0, this.#lives.length - LIVES_KEPT);
    await starting.ready({ line: /"event":"ready"/ }, START_MS);
    this.#startMs = Math.round(performance.now() - beganMs);
    if (agent.logged('storeOlder').length > 0) throw new Violation('its own database was taken for an older copy');
    this.world.tell('ready', { afterMs: this.#startMs });
    this.world.ready();
  }

  /** One after the other, whatever comes to mind, until it is stopped or the agent is gone. */
  #work(signal: AbortSignal): Promise<void> {
    return this.#guarded(async () => {
      while (!signal.aborted && this.world.agent.daemon.running) await this.#act();
    });
  }

  async #guarded(act: () => Promise<unknown>): Promise<void> {
    try {
      await act();
    } catch (fault) {
      this.#fault ??= fault as Error;
    }
  }

  #act(): Promise<unknown> {
    const { world } = this;
    const own = world.model.sure().filter((grant) => grant !== this.#beacon);
    const grant = own[this.#random.integer(own.length)];
    const dice = this.#random.integer(100);
    if (!grant || dice < (own.length < HELD ? 50 : 25)) return world.grant();
    if (dice < 75) return world.extend(grant);
    if (dice < 88) return world.end(grant);
    if (dice < 94) return world.revoke(grant);
    if (dice < 98) return world.roam();
    return world.reload();
  }

  /** One grant that nothing happens to: that its packets arrive tells how far the wire has been read. */
  async #light(): Promise<void> {
    if (this.#beacon && this.#beacon.endUs > nowUs() + 300 * SECOND) return;
    const wanted = { device: SETTLED, family: 'ipv4', protocol: 'udp', port: 7000 } as const;
    if (this.#beacon) await this.world.end(this.#beacon);
    this.#beacon = await this.world.grant({ ...wanted, port: 7200 + this.#random.integer(600) }, 900);
    if (!this.#beacon) throw new Violation('a grant to see by was not given');
  }

  /** The agent is dead. What is open must be on record, and no longer than that. */
  #verifyLeft(): void {
    this.#explain(keptByTheDead(this.world.store));
  }

  #explain({ records, holders }: Kept) {
    const entries = liveEntries(this.world.agent.bpffs, ENTRIES);
    const byNumber = new Map(records.map((record) => [record.number, record]));
    const suspended = suspendedNs(systemClock);
    const nowNs = process.hrtime.bigint();
    for (const { mapping, endNs } of entries) {
      const record = byNumber.get(mapping.number);
      const where = `the gate has ${mapping.external.address.text} ${mapping.external.port} open until ${endNs}`;
      if (!record) throw new Violation(`${where}, and there is no record`);
      if (record.state !== 'live' && endNs > nowNs)
        throw new Violation(`${where}, and ${record.id} has ended (${record.endCause})`);
      if (endNs > record.expiresAtNs - suspended)
        throw new Violation(`${where}, and the record of ${record.id} says ${record.expiresAtNs - suspended}`);
      const same =
        record.index === mapping.index &&
        record.external.port === mapping.external.port &&
        record.external.address.text === mapping.external.address.text &&
        record.inner.address.text === mapping.device.address.text &&
        record.devicePort === mapping.device.port;
      if (!same) throw new Violation(`${where}, for another device or place than ${record.id} says`);
      const holder = holders.get(record.inner.address.text);
      if (holder !== record.device)
        throw new Violation(`${where}, toward ${record.inner.address.text}, which ${holder ?? 'nobody'} holds`);
    }
    return entries;
  }

  /** The agent is back: everything that it had said it must say again. */
  async #verify(): Promise<void> {
    const { world } = this;
    const { model } = world;
    await world.verifyBindings();
    const before = await world.list();
    if (before.status !== 200) throw new Violation(`the list of grants: ${before.status} ${before.complaint ?? ''}`);
    const unknown = before.body.filter(({ grantId }) => !model.grants.has(grantId));
    for (const body of unknown) this.#adopt(body, before.sentUs, before.receivedUs);
    const listed = new Set(before.body.map(({ grantId }) => grantId));
    for (const grant of model.sure(before.receivedUs)) {
      if (!listed.has(grant.id)) throw new Violation(`${grant.id} is live and not listed`);
    }
    await Promise.all(
      [...model.grants.values()].filter(isOpen).map(async (grant) => {
        const { status, body, sentUs, receivedUs } = await world.show(grant.id);
        if (status !== 200) throw new Violation(`${grant.id} was acknowledged: ${status} ${JSON.stringify(body)}`);
        model.shown(grant, body, sentUs, receivedUs);
      }),
    );
    await this.#retry();
    model.settle();

    const now = kept(world.store);
    const open = new Map(this.#explain(now).map(({ mapping, endNs }) => [mapping.number, endNs]));
    const soonNs = process.hrtime.bigint() + suspendedNs(systemClock) + BigInt(SECOND) * 1000n;
    for (const { id, number, state, expiresAtNs } of now.records) {
      if (state !== 'live' || expiresAtNs < soonNs) continue;
      if (open.get(number) !== expiresAtNs - suspendedNs(systemClock))
        throw new Violation(`${id} is live until ${expiresAtNs}, and open until ${open.get(number) ?? 'never'}`);
    }
  }

  /** A live grant that no answer told of: one that was asked for when the agent was killed, or nobody's. */
  #adopt(body: GrantBody, sentUs: number, receivedUs: number): void {
    const { model } = this.world;
    const candidates = [...model.unanswered].filter((one) => isOf(one, body));
    const [asked] = candidates;
    if (!asked) throw new Violation(`${body.grantId} is live, and nobody asked for it: ${JSON.stringify(body)}`);
    const latestUs = Math.max(...candidates.map(({ latestEndUs }) => latestEndUs));
    if (momentOf(body.expiresAt) > latestUs + 5 * MS)
      throw new Violation(`${body.grantId} lives for longer than was asked: ${JSON.stringify(body)}`);
    if (candidates.length === 1) asked.opened = body.grantId;
    this.world.granted(asked, body, sentUs, receivedUs);
  }

  /** What was asked for under a key, and not answered, is asked for again: the same answer, or a new grant. */
  async #retry(): Promise<void> {
    const { world } = this;
    const { model } = world;
    for (const asked of model.unanswered) {
      if (asked.key === undefined) continue;
      const { status, body, sentUs, receivedUs } = await world.again(asked);
      if (asked.opened !== undefined && body.grantId !== asked.opened)
        throw new Violation(`${asked.opened} was open, and its request sent again is answered ${JSON.stringify(body)}`);
      if (status !== 201 || model.grants.has(body.grantId)) continue;
      const shown = await world.show(body.grantId);
      if (shown.body.status === 'LIVE') world.granted(asked, body, sentUs, receivedUs);
    }
    model.unanswered.clear();
  }

  /** All packets of before now, once the wire has been read so far. */
  async #judge(): Promise<void> {
    const { model } = this.world;
    const nowIs = nowUs();
    await until('packets of the grant to see by', () => model.hasSeen(nowIs) || undefined).catch(() => {
      throw new Violation('packets of a live grant do not arrive any more');
    });
    model.judge(nowIs - 200 * MS);
  }
}

function isOpen(grant: Grant): boolean {
  return grant.endedUs === undefined;
}

function isOf(asked: Unanswered, body: GrantBody): boolean {
  return (
    asked.device === body.device.networkAccessIdentifier &&
    asked.family === body.ipFamily.toLowerCase() &&
    asked.protocol === body.protocol.toLowerCase() &&
    asked.port === body.devicePort
  );
}
