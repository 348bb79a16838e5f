/**
 * One case, lived through by gateway and model side by side: each packet is
 * judged by the model, sent, and seen to its end; then both must have said
 * the same, of the packet, of what was logged and of what was counted. Also
 * held against the kernel: the walk that operators are shown (packet-walk.ts).
 */
import { setImmediate as turn } from 'node:timers/promises';
import { admissions } from '../../../agent/closure/site.ts';
import { prefix } from '../../../agent/core/net.ts';
import { walkSite } from '../../../agent/files/operator-files.ts';
import { judgePacket } from '../../../agent/policy/filters.ts';
import type { Policy } from '../../../agent/policy/policy.ts';
import { policyWithin } from '../../rules.ts';
import { type Action, type Case, policyText, SERVERS, SOURCES } from './cases.ts';
import { describe, difference, shown } from './comparison.ts';
import { Composer } from './composition.ts';
import type { Gateway, Seen } from './gateway.ts';
import { Grants } from './grants.ts';
import { type Expected, Model } from './model.ts';
import type { Place } from './neighbourhood.ts';
import { read } from './packet.ts';
import { told } from './walk.ts';

/** How long what must come may take. It is there at once, unless the machine is held up. */
const PATIENCE_MS = 2000;
/** The same where a difference was seen already, and is looked for again. */
export const SHORT_PATIENCE_MS = 100;

/** What came of all packets: how many reached the kernel, and how often each outcome was seen. */
export interface Summary {
  packets: number;
  walked: number;
  readonly outcomes: Map<string, number>;
}
export const nothingYet = (): Summary => ({ packets: 0, walked: 0, outcomes: new Map() });

/** Gateway and model do not agree. */
export class Difference extends Error {
  /** Which action of the case it was. */
  readonly at: number;

  constructor(at: number, message: string, options: { readonly cause: unknown }) {
    super(message, options);
    this.at = at;
  }
}

/** @throws Difference that tells all of a packet of which the two say different things */
export async function live(gateway: Gateway, one: Case, summary: Summary, patienceMs = PATIENCE_MS): Promise<void> {
  const trial = await Trial.begin(gateway, one, summary, patienceMs);
  let at = 0;
  try {
    for (const [i, action] of one.actions.entries()) {
      at = i;
      await trial.do(action);
    }
    await trial.compareCounts();
  } catch (cause) {
    throw new Difference(at, (cause as Error).message, { cause });
  } finally {
    trial.end();
  }
}

class Trial {
  readonly #gateway: Gateway;
  readonly #policies: readonly Policy[];
  readonly #texts: readonly string[];
  readonly #model: Model;
  readonly #summary: Summary;
  readonly #patienceMs: number;
  readonly #grants: Grants;
  readonly #composer: Composer;
  #policy: Policy;
  #counted = new Map<string, number>();
  #silent = 0;

  private constructor(gateway: Gateway, { policies }: Case, summary: Summary, patienceMs: number) {
    this.#patienceMs = patienceMs;
    this.#gateway = gateway;
    this.#texts = policies.map(policyText);
    this.#policies = this.#texts.map((text) => policyWithin({ site: walkSite(gateway.config) }, text));
    this.#policy = this.#policies[0] as Policy;
    this.#summary = summary;
    const { config, setup } = gateway;
    const { egress } = config.pools;
    this.#model = new Model(setup, { egress, denied: config.base.deniedDestinations, policy: this.#policy });
    this.#grants = new Grants(gateway, this.#model);
    this.#composer = new Composer(this.#model.flows, this.#grants);
  }

  static async begin(gateway: Gateway, one: Case, summary: Summary, patienceMs: number): Promise<Trial> {
    const trial = new Trial(gateway, one, summary, patienceMs);
    const { memory } = trial.#model;
    await gateway.forgetFlows();
    for (const plane of [gateway.gate, memory]) {
      for (const [name, sources] of Object.entries(SOURCES))
        for (const source of sources) plane.addClass(prefix(source), SERVERS[name as keyof typeof SERVERS]);
      plane.heartbeat(process.hrtime.bigint());
    }
    memory.sample(1_000_000_000);
    await trial.#enforce(trial.#policy);
    for (const grant of one.grants) trial.#grants.open(grant, trial.#policy);
    return trial;
  }

  /** Nothing of this case is left in the gate. */
  end(): void {
    this.#grants.forget();
    this.#gateway.look();
  }

  async do(action: Action): Promise<void> {
    if (action.do === 'switch') {
      await this.compareCounts();
      await this.#enforce(this.#policies[action.policy % this.#policies.length] as Policy);
      return;
    }
    if (action.do === 'endGrant') {
      const grant = this.#grants.at(action.grant);
      if (grant) this.#grants.end(grant);
      return;
    }
    const made = this.#composer.compose(action);
    if (!made) return;
    for (const bytes of made.packets) await this.#send(action, made.from, bytes);
  }

  /** What filters and base have counted since the last time is what the model says. */
  async compareCounts(): Promise<void> {
    const { counted, silent } = await this.#counts();
    const met = this.#model.base.met();
    for (const { id } of this.#policy.filters) {
      const said = met.has(id) ? met.get(id) : 0;
      const found = (counted.get(id) ?? 0) - (this.#counted.get(id) ?? 0);
      if (said !== undefined && said !== found)
        throw new Error(`filter ${id} has counted ${found}, and the model ${said}\n${this.#scene()}`);
    }
    const [said, found] = [this.#model.silent(), silent - this.#silent];
    if (said !== found)
      throw new Error(`the base has dropped ${found} by itself, and the model ${said}\n${this.#scene()}`);
    const strays = this.#gateway.look();
    if (strays.gate.length + strays.log.length + strays.arrived.length > 0)
      throw new Error(`something came late, or of itself: ${shown(strays)}\n${this.#scene()}`);
    this.#counted = counted;
    this.#silent = silent;
  }

  async #counts() {
    return { counted: await this.#gateway.filterPackets(), silent: await this.#gateway.silentlyDropped() };
  }

  /** As the daemon does it: base, then admissions, then the grants that a drop meets now. */
  async #enforce(policy: Policy): Promise<void> {
    await this.#gateway.switchPolicy(policy);
    this.#model.memory.admissions(admissions(this.#gateway.config, policy));
    this.#model.base.policy = policy;
    this.#policy = policy;
    this.#grants.enforce(policy);
    const { counted, silent } = await this.#counts();
    this.#counted = counted;
    this.#silent = silent;
  }

  async #send(action: Action, from: Place, bytes: Uint8Array): Promise<void> {
    const packet = read(bytes);
    const flowsBefore = this.#model.flows.all.length;
    const isFirst = packet.quoteAt === undefined && !this.#model.flows.of(packet);
    const walk = isFirst ? told(this.#gateway, this.#policy, this.#grants, from, packet) : undefined;
    const expected = this.#model.judge(from, bytes);
    this.#gateway.send(from, bytes);
    const { seen, wrong } = await this.#settle(expected);
    const fail = (what: string): never => {
      throw new Error(
        `${what}\n\npacket   ${describe(from, packet)}\n         ${Buffer.from(bytes).toString('hex')}\naction   ${JSON.stringify(action)}\nmodel    ${expected.outcome} (${expected.why})\n         ${[...expected.gate, ...expected.log, expected.arrives ? `arrives ${expected.arrives.at}` : 'is not seen again'].join(', ')}\nkernel   ${shown(seen)}\n\n${this.#scene()}`,
      );
    };
    if (wrong) fail(wrong);
    if (expected.carried) {
      const drop = judgePacket(this.#policy.filters, expected.carried, {
        isInGroup: (name, end) => this.#model.base.isInGroup(name, end),
      });
      if (drop.verdict === 'drop') fail(`a grant carries what drop ${drop.filter.id} meets`);
    }
    if (walk !== undefined && !['held', 'host', 'expired'].includes(expected.outcome)) {
      this.#summary.walked += 1;
      if (walk !== expected.outcome) fail(`explain packet says: ${walk}`);
    }
    const { outcomes } = this.#summary;
    this.#summary.packets += 1;
    const kind = expected.outcome.replace(/ f\d$/, ' filter');
    for (const one of [kind, ...(this.#model.flows.all.length > flowsBefore ? ['a flow begins'] : [])])
      outcomes.set(one, (outcomes.get(one) ?? 0) + 1);
  }

  /** Looks until what was seen is what is expected, or something else, or patience ends. */
  async #settle(expected: Expected): Promise<{ seen: Seen; wrong: string | undefined }> {
    let seen = this.#gateway.look();
    for (const end = performance.now() + this.#patienceMs; ; ) {
      const wrong = difference(expected, seen);
      if (!wrong || performance.now() > end) return { seen, wrong };
      await turn();
      const more = this.#gateway.look();
      seen = {
        gate: [...seen.gate, ...more.gate],
        log: [...seen.log, ...more.log],
        arrived: [...seen.arrived, ...more.arrived],
        said: [...seen.said, ...more.said],
      };
    }
  }

  #scene(): string {
    const grants = this.#grants.all.map(
      (one) => `${JSON.stringify(one.text)}${this.#grants.isAlive(one) ? '' : ' (ended)'}`,
    );
    const flows = this.#model.flows.all.map(({ from, to, external, ...rest }) =>
      [
        `${from.address.text} ${from.port} to ${to.address.text} ${to.port}`,
        external && `as ${external.address.text} ${external.port}`,
        JSON.stringify(rest),
      ].join(' '),
    );
    return [
      'policy in force:',
      this.#texts[this.#policies.indexOf(this.#policy)],
      'grants:',
      ...grants,
      'flows:',
      ...flows,
    ].join('\n');
  }
}
