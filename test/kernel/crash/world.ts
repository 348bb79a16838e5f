/**
 * What the crash harness stands on: the standard network with some devices
 * more, the daemon, an MTC server, an operator, packets and a sink; and every
 * thing that is done with the agent, each told to the model before it is asked
 * and after it was answered.
 */
import { appendFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import type { Random } from '../../../agent/core/ports.ts';
import type { Protocol } from '../../../agent/core/words.ts';
import { API_PORT, RULES, TestAgent } from '../../agent.ts';
import { DEVICE, GATEWAY, INSIDE, SERVER, standardNetwork, UPLINK } from '../../standard-network.ts';
import { type Answer, Asker } from './asker.ts';
import { type Grant, type GrantBody, Model, type Unanswered, Violation, type Wanted } from './model.ts';
import { MS, nowUs, SECOND } from './moments.ts';
import { startSink } from './sink.ts';
import { Source } from './source.ts';

const FAMILIES = ['ipv4', 'ipv6'] as const;
/** Bound by the operator, to and fro; m0 by the devices file, and nothing is done to its first grant. */
const ROAMERS = ['m1', 'm2', 'm3', 'm4'].map((name) => `${name}@meters.example`);
export const SETTLED = 'm0@meters.example';
const ADDRESSES = {
  ipv4: [11, 12, 13, 14, 15, 16].map((last) => `10.20.0.${last}`),
  ipv6: [11, 12, 13, 14, 15, 16].map((last) => `fd00:20::${last}`),
} as const;

const DEVICES = `
devices:
  - externalId: ${SETTLED}
    bindings: [{ realm: iot, address: ${DEVICE.ipv4} }, { realm: iot, address: "${DEVICE.ipv6}" }]
${ROAMERS.map((name) => `  - externalId: ${name}`).join('\n')}
`;
/** So few that an endpoint which does not rest is soon another's. */
const PORTS = { low: 20_000, high: 20_149 };
const IPV6_GRANTS = 65_536;
export const ENTRIES = 8 * 2 * (PORTS.high - PORTS.low + 1) + IPV6_GRANTS;

/** Device ports from here on are allowed by the wide rules only. */
const DOUBTFUL_PORT = 7900;
const NARROW_RULES = RULES.replace('"7000-7999"', `"7000-${DOUBTFUL_PORT - 1}"`);
const isDoubtful = ({ port }: Wanted) => port >= DOUBTFUL_PORT;

const API = `https://${GATEWAY.ipv4}:${API_PORT}/mobile-terminated-access/v1`;

export class World {
  readonly network = standardNetwork();
  readonly agent = new TestAgent(this.network, {
    ...{ devices: DEVICES, ports: `${PORTS.low}-${PORTS.high}` },
    autoApply: true,
  });
  readonly model = new Model();
  readonly counts: Record<string, number> = {};
  readonly #random: Random;
  #asker!: Asker;
  #source!: Source;
  /** Who holds which address, as far as it is known: by address. */
  readonly #holders = new Map<string, string>();
  #isBinding = false;
  #isReloading = false;
  #isNarrow = false;
  #keys = 0;

  private constructor(random: Random) {
    this.#random = random;
  }

  static async build(random: Random): Promise<World> {
    const world = new World(random);
    const { network, agent, model } = world;
    try {
      await world.#layOut();
      await startSink(network, (arrival) => model.arrived(arrival));
      world.#source = await Source.start(network, (sent) => model.sent(sent));
      const { ca, headEnd } = agent;
      world.#asker = await Asker.start(network, 'server', [
        ca.certificateFile,
        headEnd.certificateFile,
        headEnd.keyFile,
      ]);
      return world;
    } catch (cause) {
      await network.close();
      throw cause;
    }
  }

  get store(): string {
    return join(this.agent.folder, 'store');
  }

  get historyFile(): string {
    return join(this.agent.folder, 'history.jsonl');
  }

  tell(what: string, facts: object = {}): void {
    appendFileSync(this.historyFile, `${JSON.stringify({ atUs: nowUs(), what, ...facts })}\n`);
  }

  // What a server does

  async grant(wanted = this.#anything(), durationSeconds = this.#lifetime()): Promise<Grant | undefined> {
    const key = this.#random.integer(3) === 0 ? `k${++this.#keys}` : undefined;
    const body = {
      device: { networkAccessIdentifier: wanted.device },
      applicationServer: { address: SERVER[wanted.family] },
      protocol: wanted.protocol.toUpperCase(),
      devicePort: wanted.port,
      durationSeconds,
    };
    const asked = { ...wanted, body, key };
    const answer = await this.#ask<GrantBody>('POST', '/grants', body, key);
    if (answer.status === 0) {
      this.model.unanswered.add({ ...asked, latestEndUs: answer.receivedUs + durationSeconds * SECOND });
      return undefined;
    }
    if (answer.status !== 201) return undefined;
    return this.granted(wanted, answer.body, answer.sentUs, answer.receivedUs);
  }

  /** The same request again, after a restart. */
  again({ body, key }: Unanswered): Promise<Answer<GrantBody>> {
    return this.#ask<GrantBody>('POST', '/grants', body, key);
  }

  granted(wanted: Wanted, body: GrantBody, sentUs: number, receivedUs: number): Grant {
    const grant = this.model.granted(wanted, body, sentUs, receivedUs);
    const { serial, protocol } = grant;
    this.#source.order({ do: 'add', serial, protocol, ...body.externalEndpoint });
    return grant;
  }

  async extend(grant: Grant): Promise<void> {
    if (grant.isExtending) return;
    grant.isExtending = true;
    const durationSeconds = this.#lifetime();
    const { endUs, latestEndUs } = grant;
    grant.latestEndUs = Math.max(latestEndUs, nowUs() + (durationSeconds + 10) * SECOND);
    const answer = await this.#ask<GrantBody>('POST', `/grants/${grant.id}/extend`, { durationSeconds });
    grant.isExtending = false;
    if (answer.status === 0) {
      grant.latestEndUs = Math.max(latestEndUs, answer.receivedUs + durationSeconds * SECOND);
      return;
    }
    if (answer.status === 200) {
      this.model.extended(grant, answer.body.expiresAt);
      const most = answer.receivedUs + durationSeconds * SECOND + 5 * MS;
      if (grant.endUs < endUs - 5 * MS) throw new Violation(`${grant.id} was extended to an earlier end`);
      if (grant.endUs > Math.max(endUs + 5 * MS, most)) throw new Violation(`${grant.id} was extended by too much`);
      return;
    }
    grant.latestEndUs = endUs;
    const said = JSON.stringify(answer.body);
    if (/GRANT_ENDED|NOT_FOUND/.test(said) && this.model.sure(answer.receivedUs).includes(grant))
      throw new Violation(`${grant.id} should be live, and was not extended: ${said}`);
  }

  async end(grant: Grant): Promise<void> {
    const threat = this.model.threaten(`end ${grant.id}`, (one) => one === grant);
    const { status, receivedUs } = await this.#ask('DELETE', `/grants/${grant.id}`);
    if (status === 204) this.#ended(this.model.done(threat, receivedUs));
  }

  show(id: string): Promise<Answer<GrantBody>> {
    return this.#ask<GrantBody>('GET', `/grants/${id}`);
  }

  list(): Promise<Answer<readonly GrantBody[]>> {
    return this.#ask<readonly GrantBody[]>('POST', '/retrieve-grants', {});
  }

  // What an operator does

  async revoke(grant: Grant): Promise<void> {
    const threat = this.model.threaten(`revoke ${grant.id}`, (one) => one === grant);
    const { status, receivedUs } = await this.#manage('DELETE', `/grants/${grant.id}`);
    // 404: it has ended already, which is as good.
    if (status === 204 || status === 404) this.#ended(this.model.done(threat, receivedUs));
  }

  /** A device that has no address gets one; else one gets another, which may be another device's. */
  async roam(): Promise<void> {
    const family = this.#pick(FAMILIES);
    const addresses = ADDRESSES[family];
    const holders = addresses.map((address) => this.#holders.get(address));
    const homeless = ROAMERS.find((device) => !holders.includes(device));
    const free = addresses.filter((_, i) => holders[i] === undefined);
    await this.bind(homeless ?? this.#pick(ROAMERS), this.#pick(homeless ? free : addresses));
  }

  async bind(device: string, address: string): Promise<void> {
    if (this.#isBinding || this.#holders.get(address) === device) return;
    this.#isBinding = true;
    const family = address.includes(':') ? 'ipv6' : 'ipv4';
    const losers = [device, this.#holders.get(address)];
    const former = ADDRESSES[family].find((one) => this.#holders.get(one) === device);
    const threat = this.model.move(
      `bind ${device} to ${address}`,
      (one) => losers.includes(one.device) && one.family === family,
    );
    const touched = former ? [former, address] : [address];
    for (const one of touched) this.model.hold(one, undefined);
    const { status, body, receivedUs } = await this.#manage('POST', '/bindings', { device, realm: 'iot', address });
    this.#isBinding = false;
    if (status === 0) return;
    if (status !== 204) throw new Violation(`${device} was not bound to ${address}: ${JSON.stringify(body)}`);
    this.#ended(this.model.done(threat, receivedUs));
    if (former) this.#hold(former, undefined, receivedUs);
    this.#hold(address, device, receivedUs);
  }

  /** Other rules, by SIGHUP. Only those that narrow end anything. */
  async reload(): Promise<void> {
    if (this.#isReloading) return;
    this.#isReloading = true;
    const { daemon } = this.agent;
    const from = daemon.lines.length;
    this.#isNarrow = !this.#isNarrow;
    const threat = this.#isNarrow ? this.model.threaten('narrow rules', isDoubtful) : undefined;
    this.agent.write('rules/rules.yaml', this.#isNarrow ? NARROW_RULES : RULES);
    this.#count('reload');
    daemon.kill('SIGHUP');
    const isDone = await daemon.line(/"event":"reload(ed|Failed)"/, { from }).catch(() => undefined);
    this.#isReloading = false;
    if (isDone?.includes('reloadFailed')) throw new Violation(`valid rules were not put in force: ${isDone}`);
    if (isDone && threat) this.#ended(this.model.done(threat, nowUs()));
  }

  // What the harness asks after a start

  /** Called as soon as the agent is ready again: what the files say is in force. */
  ready(): void {
    if (this.#isNarrow) this.#ended(this.model.done(this.model.threaten('narrow rules', isDoubtful), nowUs()));
  }

  /** What the agent says of bindings must be what was acknowledged; where it was asked at the kill, it decides. */
  async verifyBindings(): Promise<void> {
    const { status, body } = await this.#manage<readonly { device: string; address: string }[]>('GET', '/bindings');
    if (status !== 200) throw new Violation(`bindings: ${status}`);
    const said = new Map(body.map(({ device, address }) => [address, device]));
    for (const address of Object.values(ADDRESSES).flat()) {
      const isKnown = this.model.holderOf(address) !== undefined;
      const [was, is] = [this.#holders.get(address), said.get(address)];
      if (isKnown && was !== is) throw new Violation(`${address} was ${was ?? 'nobody'}'s, and is ${is ?? 'nobody'}'s`);
      if (!isKnown) this.#hold(address, is, nowUs());
    }
  }

  /** Ended endpoints are knocked at no more before they may be another's. */
  forgetOld(): void {
    for (const { serial } of this.model.outdated()) this.#source.order({ do: 'drop', serial });
  }

  async #layOut(): Promise<void> {
    const all = Object.values(ADDRESSES).flat();
    const { mac } = this.network.link('device', UPLINK);
    const lines = (commands: readonly string[]) => ['sh', '-ec', commands.join('\n')];
    await this.network.run(
      'device',
      lines([
        ...all.map((one) => `ip address add ${one}${one.includes(':') ? '/128 nodad' : '/32'} dev ${UPLINK}`),
        // Nobody answers: what arrives is read off the wire.
        `nft 'table inet mute { chain in { type filter hook input priority 0; meta l4proto { tcp, udp } drop; }; }'`,
      ]),
    );
    // Known from the beginning: a packet that waits for its neighbour would look like one that is lost.
    const known = [...all, DEVICE.ipv4, DEVICE.ipv6];
    await this.network.run(
      'gateway',
      lines(known.map((one) => `ip neighbour replace ${one} lladdr ${mac} dev ${INSIDE} nud permanent`)),
    );
    this.model.hold(DEVICE.ipv4, SETTLED);
    this.model.hold(DEVICE.ipv6, SETTLED);
    for (const address of all) this.model.hold(address, 'nobody');
  }

  /** Binds every device once. */
  async bindAll(): Promise<void> {
    for (const [i, device] of ROAMERS.entries()) {
      for (const family of FAMILIES) await this.bind(device, ADDRESSES[family][i] as string);
    }
  }

  #hold(address: string, device: string | undefined, atUs: number): void {
    if (device) this.#holders.set(address, device);
    else this.#holders.delete(address);
    this.model.hold(address, device ?? 'nobody', atUs);
  }

  #ended(grants: readonly Grant[]): void {
    for (const { serial } of grants) this.#source.order({ do: 'end', serial });
  }

  #anything(): Wanted {
    const port = this.#random.integer(8) === 0 ? DOUBTFUL_PORT : 7000;
    return {
      device: this.#pick([SETTLED, ...ROAMERS]),
      family: this.#pick(FAMILIES),
      protocol: this.#pick<Protocol>(['udp', 'tcp']),
      port: port + this.#random.integer(100),
    };
  }

  #lifetime(): number {
    return this.#random.integer(2) === 0 ? 1 + this.#random.integer(5) : 30 + this.#random.integer(90);
  }

  #pick<Value>(from: readonly Value[]): Value {
    return from[this.#random.integer(from.length)] as Value;
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  async #ask<Body>(method: string, path: string, body?: object, key?: string): Promise<Answer<Body>> {
    const headers = key === undefined ? {} : { headers: { 'idempotency-key': `"${key}"` } };
    const asked = { method, url: `${API}${path}`, ...(body && { body }), ...headers };
    return this.#answered(`${method} ${path}`, body, await this.#asker.ask<Body>(asked));
  }

  #manage<Body>(method: string, path: string, body?: object): Promise<Answer<Body>> {
    return new Promise<Answer<Body>>((resolve) => {
      const sentUs = nowUs();
      const none = (fault: Error) =>
        resolve({ status: 0, body: undefined as Body, sentUs, receivedUs: nowUs(), complaint: fault.message });
      const socketPath = join(this.agent.folder, 'mtgate.sock');
      const headers = body ? { 'content-type': 'application/json' } : {};
      const asked = request({ socketPath, method, path, headers, agent: false });
      asked.on('error', none);
      asked.on('response', (response) => {
        let got = '';
        response.setEncoding('utf8').on('data', (part: string) => {
          got += part;
        });
        response.on('error', none);
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            body: got ? JSON.parse(got) : undefined,
            sentUs,
            receivedUs: nowUs(),
          }),
        );
      });
      asked.end(body && JSON.stringify(body));
    }).then((answer) => this.#answered(`operator ${method} ${path}`, body, answer));
  }

  #answered<Body>(what: string, asked: object | undefined, answer: Answer<Body>): Answer<Body> {
    this.#count(`${what.replace(/\/[0-9A-Z]{26}/, '/…')} ${answer.status}`);
    this.tell(what, { ...(asked && { asked }), ...answer });
    if (answer.status >= 500 && answer.status !== 503)
      throw new Violation(`${what} was answered ${answer.status}: ${JSON.stringify(answer.body)}`);
    return answer;
  }
}
