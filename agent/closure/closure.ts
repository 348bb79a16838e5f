/**
 * The closure: gate, base and blackholes, kept as they must be on a host where
 * others can change them, and where interfaces and addresses come and go.
 *
 * Invariants. What is looked at is what the kernel says, never what was done.
 * While anything of it is missing or changed no grant is opened; live grants
 * go on, as far as the gate still hangs. An interface that is not there closes
 * what lies behind it and nothing else: none toward its realm, none at all
 * without the outside. What comes is closed before it counts as there: the
 * gate is built anew and hung there, in place of the one before, without a
 * packet of others lost. A part that cannot be repaired holds up no other.
 */
import type { Config } from '../config.ts';
import { AgentError, FAULTS } from '../core/errors.ts';
import type { Prefix } from '../core/net.ts';
import { OneAtATime } from '../core/one-at-a-time.ts';
import type { Log } from '../core/ports.ts';
import type { RealmName } from '../core/words.ts';
import type { Flaw, XdpRefusal } from '../dataplane/attachment.ts';
import type { Gate } from '../dataplane/gate.ts';
import type { Host } from '../dataplane/iproute.ts';
import type { Base } from '../dataplane/nftables.ts';
import type { Link } from '../dataplane/rtnetlink.ts';
import { groupElement, groupsIn } from '../policy/filter-ruleset.ts';
import type { Policy } from '../policy/policy.ts';
import { baseRuleset } from '../policy/ruleset.ts';
import { Reading } from './reading.ts';
import {
  type Absence,
  admissions,
  baseSetup,
  type FilterGround,
  type GateNumbers,
  gatePlaces,
  gateSetup,
  groupMembers,
  mayHaveXdp,
  poolPrefixes,
  type Site,
  siteOf,
  xdpUnmet,
} from './site.ts';
import type { WrongSysctl } from './sysctls.ts';

export type GapKind =
  | 'gateMissing'
  | 'gateReplaced'
  | 'gateOutdated'
  | 'baseMissing'
  | 'baseChanged'
  | 'baseOutdated'
  | 'blackholeMissing'
  | 'notSeen';

/** A part that is not as it must be. */
export interface Gap {
  readonly kind: GapKind;
  readonly what: string;
}

export interface ClosureParts {
  readonly config: Config;
  readonly numbers: GateNumbers;
  readonly gate: Gate;
  readonly base: Base;
  /** Who holds which address, for the groups that filters name. */
  readonly directory: Pick<FilterGround, 'bound' | 'attributesOf'>;
  readonly host: (xdpAt: readonly string[]) => Promise<Host>;
  readonly missingBlackholes: (prefixes: readonly Prefix[]) => Promise<readonly Prefix[]>;
  readonly setBlackholes: (prefixes: readonly Prefix[]) => Promise<void>;
  readonly wrongSysctls: (interfaces: readonly string[]) => readonly WrongSysctl[];
  readonly log: Log;
  readonly gapFound: (kind: GapKind) => void;
}

/** An interface that refused XDP is asked again with so many looks, which are a second apart. */
const XDP_AGAIN_LOOKS = 30;
/** To count is to run nft: not with every scrape of a busy collector. */
const COUNTED_FOR_MS = 10_000;
const BASE_GAPS = {
  baseMissing: 'the nftables base is not there',
  baseChanged: 'the nftables base does not stand as it was applied',
} as const;

export class Closure {
  readonly #parts: ClosureParts;
  #site: Site;
  /** The policy whose filters the base has. */
  #policy: Policy;
  readonly #counted: Reading<Awaited<ReturnType<Base['counted']>>>;
  readonly #refused: Reading<number>;
  /** The base is written, or changed, by one at a time. */
  readonly #writing = new OneAtATime();
  /** What is not built on this site yet. */
  readonly #outdated = new Set<'gate' | 'base'>();
  #gaps: readonly Gap[] = [];
  #sysctls: readonly WrongSysctl[] = [];
  /** What the last repair could not do, so that it is said once. */
  #unrepaired = '';
  /** Where XDP is asked for and is not, and why, as it was last told; and how many looks ago it was tried. */
  #xdpRefusals: readonly XdpRefusal[] = [];
  #looksSinceXdp = 0;

  /** Gate, base and blackholes were just put there, for this site. */
  constructor(parts: ClosureParts, site: Site, policy: Policy) {
    this.#parts = parts;
    this.#site = site;
    this.#policy = policy;
    this.#counted = new Reading(() => parts.base.counted(), COUNTED_FOR_MS);
    this.#refused = new Reading(() => parts.base.refusedFlows(), COUNTED_FOR_MS);
    for (const absence of site.absent) this.#tell(absence);
    this.#tellXdp();
  }

  /** Why no grant may be opened: none at all, or none toward this realm. */
  objection(realm?: RealmName): string | undefined {
    if (this.#gaps.length > 0) return this.#gaps.map(({ what }) => what).join('; ');
    return this.#site.absent.find((one) => one.realm === undefined || one.realm === realm)?.why;
  }

  get site(): Site {
    return this.#site;
  }

  get gaps(): readonly Gap[] {
    return this.#gaps;
  }

  get wrongSysctls(): readonly WrongSysctl[] {
    return this.#sysctls;
  }

  /** Looks, repairs what it found, and looks whether that helped. */
  async keep(): Promise<void> {
    await this.look();
    if (this.#gaps.length === 0) return;
    await this.repair();
    await this.look();
  }

  /** Follows the interfaces, and finds what is not as it must be. What cannot be seen counts as a gap. */
  async look(): Promise<void> {
    const { config, gate, base, host, missingBlackholes, wrongSysctls } = this.#parts;
    try {
      const unpinned = gate.pinAgain();
      if (unpinned > 0) this.#parts.log.warn({ maps: unpinned }, 'gateMapsUnpinned');
      await this.#follow(siteOf(config, await host(mayHaveXdp(config))));
      this.#keepXdp();
      const [standing, holes] = await Promise.all([
        this.#writing.inTurn(() => base.look()),
        missingBlackholes(this.#pools()),
      ]);
      this.#judge([
        ...[...this.#outdated].map(outdatedGap),
        ...gate.flaws().map(gateGap),
        ...(standing === 'stands' ? [] : [{ kind: standing, what: BASE_GAPS[standing] }]),
        ...holes.map(({ text }): Gap => ({ kind: 'blackholeMissing', what: `${text} is no blackhole any more` })),
      ]);
      this.#hear(wrongSysctls(this.#names()));
    } catch (fault) {
      this.#judge([{ kind: 'notSeen', what: `what stands cannot be seen: ${String(fault)}` }]);
    }
  }

  /** Puts the filters of a policy into the base. @throws AgentError nftFailed; then the former ones are in force */
  switchPolicy(policy: Policy): Promise<void> {
    return this.#writing.inTurn(async () => {
      await this.#writeBase(policy);
      try {
        this.#parts.gate.admissions(admissions(this.#parts.config, policy));
      } catch (fault) {
        this.#outdated.add('base'); // the next look puts back the filters in force
        throw fault;
      }
      this.#policy = policy;
      this.#counted.forget();
    });
  }

  /** What the filters in force have met; read again at most every ten seconds. */
  filterPackets() {
    const { filters } = this.#policy;
    if (filters.length === 0) return Promise.resolve([]);
    return this.#counted.value().then((counted) =>
      filters.map(({ id: filter, staged }) => ({
        filter,
        staged,
        packets: Number(counted.get(filter)?.packets ?? 0n),
      })),
    );
  }

  /** Packets that would have begun a device's flow and were refused; read again at most every ten seconds. */
  refusedFlows(): Promise<number> {
    return this.#refused.value();
  }

  /** Addresses that were bound leave the groups of filters, or enter them once they are bound. @throws AgentError nftFailed */
  followBindings(verb: 'add' | 'delete', bound: FilterGround['bound']): Promise<void> {
    return this.#writing.inTurn(async () => {
      const { config, base, directory } = this.#parts;
      const members = groupMembers(config, { ...directory, policy: this.#policy, bound });
      await base.change(
        verb,
        [...members].flatMap(([group, list]) => list.map((member) => groupElement(group, member))),
      );
    });
  }

  /** The groups of filters are filled anew. What fails is a gap, and tried again. */
  async refillGroups(): Promise<void> {
    if (groupsIn(this.#policy.filters).length === 0) return;
    await this.#writing
      .inTurn(() => this.#writeBase(this.#policy))
      .catch(() => {
        this.#outdated.add('base');
      });
  }

  /** Puts back what is missing or changed, each part by itself; one that fails holds up no other. */
  async repair(): Promise<void> {
    const { config, gate, setBlackholes, log } = this.#parts;
    const found = new Set(this.#gaps.map(({ kind }) => kind));
    if (found.has('baseMissing') || found.has('baseChanged')) this.#outdated.add('base');
    const attach = found.has('gateMissing') || found.has('gateReplaced');
    const outcomes = await Promise.allSettled([
      this.#build(),
      attach && (async () => gate.attach(config.gate.attach, gatePlaces(this.#parts.config, this.#site)))(),
      found.has('blackholeMissing') && setBlackholes(this.#pools()),
    ]);
    const faults = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
    const unrepaired = faults.map(String).join('; ');
    if (unrepaired && unrepaired !== this.#unrepaired) {
      const advice = faults.flatMap((fault) => (fault instanceof AgentError ? fault.advice : []));
      log.error({ faults: unrepaired, advice: advice.join(' ') }, 'gapNotRepaired');
    }
    this.#unrepaired = unrepaired;
  }

  /** An interface or an address came, went, or became another one: gate and base are built for what is there now. */
  async #follow(site: Site): Promise<void> {
    const { config, log } = this.#parts;
    const before = this.#site;
    if (gateKey(config, site) === gateKey(config, before)) return;
    this.#outdated.add('gate');
    if (placesKey(config, site) !== placesKey(config, before)) this.#outdated.add('base');
    this.#site = site;
    await this.#build().catch(() => {}); // what is outdated is a gap, and built again by repair, which says why not
    const isNew = (absence: Absence) => !before.absent.some(({ why }) => why === absence.why);
    for (const absence of site.absent.filter(isNew)) this.#tell(absence);
    for (const { interface: name, realm } of before.absent) {
      if (!site.absent.some((one) => one.interface === name))
        log.info({ interface: name, ...(realm && { realm }) }, 'interfaceAppeared');
    }
  }

  /** XDP that somebody took away is put back: no gap, since TC behind it decides the same. */
  #keepXdp(): void {
    const { config, gate, log } = this.#parts;
    const lost = gate.xdpLost();
    this.#looksSinceXdp += 1;
    const isDue = gate.xdpRefusals().length > 0 && this.#looksSinceXdp >= XDP_AGAIN_LOOKS;
    if (lost.length === 0 && !isDue) return;
    if (lost.length > 0) log.warn({ interfaces: lost.join(' ') }, 'xdpLost');
    gate.attach(config.gate.attach, gatePlaces(config, this.#site));
    this.#tellXdp();
  }

  #tellXdp(): void {
    const { config, gate, log } = this.#parts;
    this.#looksSinceXdp = 0;
    const before = this.#xdpRefusals;
    this.#xdpRefusals = [...gate.xdpRefusals(), ...xdpUnmet(config, this.#site)];
    for (const refusal of this.#xdpRefusals)
      if (!before.some((one) => one.interface === refusal.interface && one.why === refusal.why))
        log.warn(refusal, 'xdpNotUsed');
  }

  /** Builds what is outdated: the gate first, which closes by itself. */
  async #build(): Promise<void> {
    const { config, numbers, gate, log } = this.#parts;
    const site = this.#site;
    if (this.#outdated.has('gate')) {
      gate.rebuild(gateSetup(config, site, numbers), config.gate.attach, gatePlaces(config, site));
      this.#tellXdp();
      this.#outdated.delete('gate');
      log.info({ attachments: gate.attachments().length }, 'gateRebuilt');
    }
    if (this.#outdated.has('base')) {
      await this.#writing.inTurn(() => this.#writeBase(this.#policy));
      this.#outdated.delete('base');
    }
  }

  async #writeBase(policy: Policy): Promise<void> {
    const { config, base, directory } = this.#parts;
    const counted = await base.counted();
    await base.apply(baseRuleset(baseSetup(config, this.#site, { ...directory, policy }), counted));
  }

  #tell(absence: Absence): void {
    this.#parts.log.error({ ...absence, advice: FAULTS[absence.code] }, absence.code);
  }

  #judge(gaps: readonly Gap[]): void {
    const { log, gapFound } = this.#parts;
    const without = (list: readonly Gap[]) => (gap: Gap) => !list.some(({ what }) => what === gap.what);
    for (const { kind, what } of gaps.filter(without(this.#gaps))) {
      log.error({ kind, gap: what }, 'gapFound');
      gapFound(kind);
    }
    for (const { kind, what } of this.#gaps.filter(without(gaps))) log.info({ kind, gap: what }, 'gapRepaired');
    this.#gaps = gaps;
  }

  #hear(wrong: readonly WrongSysctl[]): void {
    const isNew = ({ name, value }: WrongSysctl) =>
      !this.#sysctls.some((one) => one.name === name && one.value === value);
    for (const sysctl of wrong.filter(isNew)) this.#parts.log.error(sysctl, 'sysctlChanged');
    this.#sysctls = wrong;
  }

  #pools(): readonly Prefix[] {
    return poolPrefixes(this.#parts.config);
  }

  #names(): string[] {
    const { outside, inside } = gatePlaces(this.#parts.config, this.#site);
    return [outside, ...inside].flatMap((one) => one?.name ?? []);
  }
}

function outdatedGap(part: 'gate' | 'base'): Gap {
  return part === 'gate'
    ? { kind: 'gateOutdated', what: 'the gate is not built for the interfaces that are there' }
    : { kind: 'baseOutdated', what: 'the nftables base is not written for the interfaces that are there' };
}

function gateGap({ kind, hook, interface: { name } }: Flaw): Gap {
  const what = kind === 'gateMissing' ? 'does not hang' : 'was replaced';
  return { kind, what: `the gate ${what} at ${name} (${hook})` };
}

/** Of a site, what the base depends on: its names and the interfaces behind them. */
function placesKey(config: Config, site: Site): string {
  return JSON.stringify(gatePlaces(config, site));
}

/** Of a site, what the gate depends on: MTUs, what takes redirected frames, how routes are chosen, and the host's addresses, too. */
function gateKey(config: Config, site: Site): string {
  const isInside = (link: Link) => [...site.inside.values()].includes(link);
  const addresses = site.links.map((link) => [
    isInside(link),
    ...[...link.addresses, ...(link.shared ?? [])].map(({ text }) => text),
  ]);
  const ways = [site.outside, ...site.inside.values()].map((link) => [link?.mtu, link?.takesFrames]);
  return JSON.stringify([gatePlaces(config, site), ways, addresses, site.routedByMore]);
}
