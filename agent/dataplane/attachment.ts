/**
 * Where the gate hangs, and how it comes to hang there: at TC, by TCX links
 * where the kernel has them (6.6), else as filters of clsact; and in front of
 * that at XDP, where it is wanted and the driver can. TC alone is enough: it
 * decides the same, so whatever keeps XDP away is told and no fault.
 *
 * Invariants. At no moment is a place without a gate that had one: a link is
 * updated in place, a filter replaced in place, and a change of kind attaches
 * the new before it takes the old away. Nothing of others is touched: neither
 * their filters nor the clsact qdisc (destroying it, or flushing, would take
 * their filters too). What is ours is what is pinned, since pins live as long
 * as attachments and say so even if the agent died in between:
 *   <bpffs>/links/HOOK-IFINDEX          the TCX link there
 *   <bpffs>/links/XDPHOOK-IFINDEX-MODE  the XDP link there
 *   <bpffs>/filters/HOOK-IFINDEX-ID     the program of the clsact filter there
 * (bpffs allows no dot in a name, so interfaces stand there by their index.)
 * Where such a pin says that ours hung, whoever took its place gives it back.
 */
import { existsSync, mkdirSync, readdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { AgentError } from '../core/errors.ts';
import { BpfError } from './bpf.ts';
import { HOOKS, type Hook, type XdpHook } from './dataplane.ts';
import {
  attachTc,
  closeFd,
  createTcxLink,
  createXdpLink,
  detachLink,
  detachTc,
  EBUSY,
  EEXIST,
  EINVAL,
  EOPNOTSUPP,
  ensureClsact,
  linkPlace,
  openPinned,
  type Point,
  pin,
  programId,
  type TcPlace,
  tcProgramId,
  updateLink,
  type XdpMode,
} from './tc.ts';

/** The first priority there is, and a handle that nobody takes by accident ("mtga"). */
const PRIORITY = 1;
const HANDLE = 0x6d746761;

export type AttachMode = 'auto' | 'tcx' | 'clsact';

/** An interface, by the name people know and the index the kernel does. */
interface Interface {
  readonly name: string;
  readonly ifindex: number;
  /** Its frames have no Ethernet header (TUN). */
  readonly bare?: boolean;
  /** How the gate is to hang at XDP, too; absent: not at all. */
  readonly xdp?: XdpMode;
}

/** Those that are there. */
export interface Interfaces {
  readonly outside?: Interface;
  readonly inside: readonly Interface[];
}

/** One place where the gate hangs. */
export interface Attachment {
  readonly hook: Hook | XdpHook;
  readonly interface: Interface;
  readonly kind: 'tcx' | 'clsact' | XdpMode;
  readonly programId: number;
}

/** A place where this gate should hang and does not: nothing of ours does, or another program. */
export interface Flaw {
  readonly kind: 'gateMissing' | 'gateReplaced';
  readonly hook: Hook;
  readonly interface: Interface;
}

/** Why the gate does not hang at XDP of an interface, though it was wanted. */
export interface XdpRefusal {
  readonly interface: string;
  readonly why: string;
}

/** The loaded programs, by their file descriptors. */
export type Programs = Readonly<Record<Hook | XdpHook | 'insideIngressBare' | 'insideEgressBare', number>>;

interface Place {
  readonly hook: Hook;
  readonly interface: Interface;
}

interface XdpPlace {
  readonly hook: XdpHook;
  readonly interface: Interface;
  readonly mode: XdpMode;
}

export class Attachments {
  readonly #links: string;
  readonly #filters: string;
  #places: readonly Place[] = [];
  #xdpPlaces: readonly XdpPlace[] = [];
  #xdpRefusals: readonly XdpRefusal[] = [];
  /** The kernel's numbers of the programs that hang there since the last attach. */
  #own: readonly number[] = [];

  constructor(bpffs: string) {
    this.#links = join(bpffs, 'links');
    this.#filters = join(bpffs, 'filters');
  }

  /** Hangs the gate at these interfaces, and takes it away from all others. */
  attach(mode: AttachMode, interfaces: Interfaces, programs: Programs): void {
    for (const folder of [this.#links, this.#filters]) mkdirSync(folder, { recursive: true, mode: 0o700 });
    this.#places = placesOf(interfaces);
    this.#own = Object.values(programs).map(programId);
    const kind = this.#attachAll(mode, programs);
    this.#attachXdp(xdpPlacesOf(interfaces), programs);
    this.#sweep(this.#places, kind, programs);
  }

  /** Where XDP was wanted at the last attach and is not, and why. */
  xdpRefusals(): readonly XdpRefusal[] {
    return this.#xdpRefusals;
  }

  /** What of the last attach does not hold any more. */
  flaws(): readonly Flaw[] {
    const found = this.list();
    return this.#places.flatMap((place): Flaw[] => {
      const here = found.filter((one) => one.hook === place.hook && one.interface === place.interface);
      if (here.some((one) => this.#own.includes(one.programId))) return [];
      return [{ ...place, kind: here.length > 0 || this.#isTaken(place) ? 'gateReplaced' : 'gateMissing' }];
    });
  }

  /** The interfaces at whose XDP this gate hung, and does not. */
  xdpLost(): readonly string[] {
    return this.#xdpPlaces
      .filter((place) => !this.#own.includes(this.#linked(this.#xdpPath(place), place.interface) ?? 0))
      .map((place) => place.interface.name);
  }

  /** What hangs there now, as the kernel says: a place that somebody cleared is not in the list. */
  list(): readonly Attachment[] {
    type At = Pick<Attachment, 'hook' | 'interface'>;
    const found = ({ hook, interface: at }: At, kind: Attachment['kind'], id: number | undefined): Attachment[] =>
      id === undefined ? [] : [{ hook, interface: at, kind, programId: id }];
    const atTc = this.#places.flatMap((place) => [
      ...found(place, 'tcx', this.#linked(this.#linkPath(place), place.interface)),
      ...found(place, 'clsact', this.#filtered(place)),
    ]);
    const atXdp = this.#xdpPlaces.flatMap((place) =>
      found(place, place.mode, this.#linked(this.#xdpPath(place), place.interface)),
    );
    return [...atTc, ...atXdp];
  }

  /** Takes the gate away everywhere. Nothing is closed after this, so only tests and uninstalling do it. */
  detach(): void {
    this.#places = [];
    this.#xdpPlaces = [];
    this.#sweep([], 'tcx');
  }

  #attachAll(mode: AttachMode, programs: Programs): 'tcx' | 'clsact' {
    try {
      if (mode !== 'clsact') for (const place of this.#places) this.#link(place, programs[programOf(place)]);
      if (mode !== 'clsact') return 'tcx';
    } catch (cause) {
      // Before 6.6 the kernel does not know the attach type.
      const unknown = cause instanceof AgentError && cause.cause instanceof BpfError && cause.cause.errno === EINVAL;
      if (mode === 'tcx' || !unknown) throw cause;
    }
    for (const place of this.#places) this.#filter(place, programs[programOf(place)]);
    return 'clsact';
  }

  /** In front of TC, which hangs there by now; what an interface does not take is left to it. */
  #attachXdp(places: readonly XdpPlace[], programs: Programs): void {
    const refusals: XdpRefusal[] = [];
    this.#xdpPlaces = places.filter((place) => {
      const path = this.#xdpPath(place);
      const { ifindex, name } = place.interface;
      try {
        // An interface has one XDP program: that of the other mode must go before.
        for (const other of this.#xdpPins(place)) if (other !== path) removeLink(other);
        this.#hang(path, ifindex, programs[place.hook], (program) => createXdpLink(program, ifindex, place.mode));
        return true;
      } catch (cause) {
        if (!(cause instanceof BpfError)) throw cause;
        refusals.push({ interface: name, why: xdpComplaint(cause) });
        return false;
      }
    });
    this.#xdpRefusals = refusals;
  }

  #link(place: Place, program: number): void {
    const { ifindex } = place.interface;
    attempt(place, () =>
      this.#hang(this.#linkPath(place), ifindex, program, (fd) => createTcxLink(fd, ifindex, pointOf(place.hook))),
    );
  }

  /** Puts a program in the place of the one that the pinned link there has, or makes and pins a link. */
  #hang(path: string, ifindex: number, program: number, create: (program: number) => number): void {
    if (existsSync(path)) {
      const isUpdated = withPinned(path, (link) => {
        // An interface that went away leaves its link behind, with no place; its index may be another's now.
        const isThere = linkPlace(link)?.ifindex === ifindex;
        if (isThere) updateLink(link, program);
        return isThere;
      });
      if (isUpdated) return;
      unlinkSync(path);
    }
    const link = create(program);
    try {
      pin(link, path);
    } finally {
      closeFd(link);
    }
  }

  #filter(place: Place, program: number): void {
    const id = programId(program);
    const at = tcPlace(place.hook, place.interface.ifindex);
    attempt(place, () => {
      ensureClsact(at);
      const present = tcProgramId(at);
      if (present !== undefined && !this.#hungAt(place))
        throw new AgentError(
          'gateNotAttached',
          `${place.hook} at ${place.interface.name}: another program (id ${present}) holds priority ${PRIORITY}, handle 0x${HANDLE.toString(16)}`,
        );
      // Pinned first: a filter that is ours must never be without the pin that says so.
      const path = join(this.#filters, `${place.hook}-${place.interface.ifindex}-${id}`);
      if (!existsSync(path)) pin(program, path);
      try {
        attachTc(at, program, present !== undefined);
      } catch (cause) {
        if (present !== id) unlinkSync(path);
        throw cause;
      }
    });
  }

  #linked(path: string, { ifindex }: Interface): number | undefined {
    if (!existsSync(path)) return undefined;
    const found = withPinned(path, linkPlace);
    return found?.ifindex === ifindex ? found.programId : undefined;
  }

  /** Whether a filter of ours hung there, as its pin says. */
  #hungAt({ hook, interface: { ifindex } }: Place): boolean {
    return this.#filterPins().some((own) => own.hook === hook && own.ifindex === ifindex);
  }

  /** Whether a filter that is not ours is where ours hung. */
  #isTaken(place: Place): boolean {
    return this.#hungAt(place) && presentAt(tcPlace(place.hook, place.interface.ifindex)) !== undefined;
  }

  #filtered(place: Place): number | undefined {
    const present = presentAt(tcPlace(place.hook, place.interface.ifindex));
    return this.#filterPins().some((own) => own.id === present) ? present : undefined;
  }

  /** Takes away what is ours but not wanted: other places, the other kind, programs of earlier runs. */
  #sweep(wanted: readonly Place[], kind: 'tcx' | 'clsact', programs?: Programs): void {
    const linked = kind === 'tcx' ? wanted.map((place) => this.#linkPath(place)) : [];
    const kept = [...linked, ...this.#xdpPlaces.map((place) => this.#xdpPath(place))];
    for (const name of readFolder(this.#links)) {
      const path = join(this.#links, name);
      if (!kept.includes(path)) removeLink(path);
    }
    for (const { name, hook, ifindex, id } of this.#filterPins()) {
      const place = wanted.find((one) => one.hook === hook && one.interface.ifindex === ifindex);
      const stays = kind === 'clsact' && place !== undefined;
      if (stays && programs && id === programId(programs[programOf(place)])) continue;
      if (!stays && presentAt(tcPlace(hook, ifindex)) === id) detachTc(tcPlace(hook, ifindex));
      unlinkSync(join(this.#filters, name));
    }
  }

  #linkPath(place: Place): string {
    return join(this.#links, `${place.hook}-${place.interface.ifindex}`);
  }

  #xdpPath({ hook, interface: { ifindex }, mode }: XdpPlace): string {
    return join(this.#links, `${hook}-${ifindex}-${mode}`);
  }

  /** The XDP links at an interface, whatever their mode, and on which side it was. */
  #xdpPins({ interface: { ifindex } }: XdpPlace): string[] {
    return readFolder(this.#links).flatMap((name) => {
      const [, index, mode] = name.split('-');
      return mode !== undefined && Number(index) === ifindex ? join(this.#links, name) : [];
    });
  }

  #filterPins(): { name: string; hook: Hook; ifindex: number; id: number }[] {
    return readFolder(this.#filters).flatMap((name) => {
      const [hookName, ifindex, id] = name.split('-');
      const hook = HOOKS.find((one) => one === hookName);
      return hook ? [{ name, hook, ifindex: Number(ifindex), id: Number(id) }] : [];
    });
  }
}

/** Egress before ingress: what the gate carries out must already meet its guard. */
function placesOf({ outside, inside }: Interfaces): readonly Place[] {
  const at = (hook: Hook, one: Interface | undefined): Place[] => (one ? [{ hook, interface: one }] : []);
  return [
    ...at('outsideEgress', outside),
    ...inside.flatMap((one) => [...at('insideEgress', one), ...at('insideIngress', one)]),
    ...at('outsideIngress', outside),
  ];
}

function xdpPlacesOf({ outside, inside }: Interfaces): readonly XdpPlace[] {
  const at = (hook: XdpHook, one: Interface | undefined): XdpPlace[] =>
    one?.xdp ? [{ hook, interface: one, mode: one.xdp }] : [];
  return [...inside.flatMap((one) => at('insideXdp', one)), ...at('outsideXdp', outside)];
}

/** What an interface's refusal means to its operator. */
function xdpComplaint({ errno, message }: BpfError): string {
  // Of the other mode than it has there: native and generic cannot be at one interface.
  if (errno === EBUSY || errno === EEXIST) return 'another XDP program hangs there';
  if (errno === EOPNOTSUPP) return 'its driver has no XDP of its own';
  return `its driver refuses: ${message}`;
}

function programOf({ hook, interface: { bare } }: Place): keyof Programs {
  return bare && (hook === 'insideIngress' || hook === 'insideEgress') ? `${hook}Bare` : hook;
}

function pointOf(hook: Hook): Point {
  return hook === 'outsideEgress' || hook === 'insideEgress' ? 'egress' : 'ingress';
}

function tcPlace(hook: Hook, ifindex: number): TcPlace {
  return { ifindex, point: pointOf(hook), handle: HANDLE, priority: PRIORITY };
}

/** As tcProgramId, but nothing is there where the qdisc or the interface is gone. */
function presentAt(place: TcPlace): number | undefined {
  try {
    return tcProgramId(place);
  } catch (cause) {
    if (cause instanceof BpfError) return undefined;
    throw cause;
  }
}

function attempt(place: Place, work: () => void): void {
  try {
    work();
  } catch (cause) {
    if (!(cause instanceof BpfError)) throw cause;
    throw new AgentError('gateNotAttached', `${place.hook} at ${place.interface.name}: ${cause.message}`, { cause });
  }
}

/** What hangs by a pinned link goes with this; by the pin alone it would a moment later, and the place be taken until then. */
function removeLink(path: string): void {
  withPinned(path, detachLink);
  unlinkSync(path);
}

function withPinned<Result>(path: string, act: (link: number) => Result): Result {
  const link = openPinned(path);
  try {
    return act(link);
  } finally {
    closeFd(link);
  }
}

function readFolder(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : [];
}
