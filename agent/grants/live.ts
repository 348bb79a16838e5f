/**
 * The live grants in memory, and those that are held, found by what requests, events and packets know:
 * id, key, inner address, external endpoint, server, MTC user, end. Every look-up and
 * change costs the same however many grants are live, and none stops to move
 * all of them; no grant is an object.
 *
 * A grant lies in a slot (packed-grants.ts). Records are made when they are
 * asked for: values, which nothing here changes.
 *
 * Whose time is over counts no more from the second it is over (`pass`), even
 * though it stays here until its end is on its way to the record.
 */
import type { Endpoint } from '../core/net.ts';
import type { ExternalId, InnerAddress, MtcUserName, Protocol, ServerName } from '../core/words.ts';
import { Calendar } from './calendar.ts';
import { Chains } from './chains.ts';
import { Column } from './column.ts';
import { HashIndex, hashNumbers } from './hash-index.ts';
import { Line } from './line.ts';
import { PackedGrants } from './packed-grants.ts';
import type { GrantKey, GrantRecord } from './record.ts';
import { hashOfEndpoint, LONG, WORD } from './slots.ts';

/**
 * A place in the order of the grants: in the line of which server, by its
 * number (in a list of an MTC user's: of which MTC user), and where in it.
 */
export interface Mark {
  readonly line: number;
  readonly sequence: number;
}

/**
 * Which grants: of a server, or toward inner addresses, or both; or of an MTC
 * user, in which case nothing else is named; all, where none is.
 */
export interface Selection {
  readonly mtcUser?: MtcUserName | undefined;
  readonly server?: ServerName | undefined;
  readonly inners?: readonly InnerAddress[] | undefined;
}

/** Some grants of a list, where the next begin if there are more, and how many there are in all. */
export interface Page {
  readonly records: readonly GrantRecord[];
  readonly next: Mark | undefined;
  readonly total: number;
}

/** How many are looked up at once by who goes through all of them. */
const STRIDE = 256;

export class LiveGrants {
  readonly #packed = new PackedGrants();
  readonly #slots = this.#packed.slots;
  readonly #byId = new HashIndex((slot) => this.#slots.hashOfText(slot, 'id'));
  readonly #byKey = new HashIndex((slot) => this.#hashOfKey(slot));
  readonly #byExternal = new HashIndex((slot) => this.#slots.hashOfEndpoint(slot));
  readonly #atInner = new Chains(this.#slots, new Column(), WORD.innerBefore, WORD.innerAfter);
  readonly #calendar = new Calendar(this.#slots);
  /** By the number of the server, and of the MTC user. */
  readonly #lines: (Line | undefined)[] = [];
  readonly #mtcUserLines: (Line | undefined)[] = [];
  /** How many are due and still here, of each server, MTC user and pair, by their numbers. */
  readonly #dueOfServer = new Map<number, number>();
  readonly #dueOfMtcUser = new Map<number, number>();
  readonly #dueOfPair = new Map<number, number>();
  #size = 0;
  #held = 0;

  get size(): number {
    return this.#size;
  }

  /** How many of them are held. */
  get held(): number {
    return this.#held;
  }

  /** Every grant once, whatever is put in or taken out meanwhile; one that is taken out before its turn is left out. */
  *all(): Generator<GrantRecord> {
    for (let after: Mark | undefined; ; ) {
      const stride: Mark[] = [];
      const slots: number[] = [];
      for (const slot of this.#inOrder({}, after)) {
        slots.push(slot);
        stride.push(this.#markOf(slot));
        if (slots.length === STRIDE) break;
      }
      for (const [i, slot] of slots.entries()) if (this.#isAt(slot, stride[i] as Mark)) yield this.#packed.record(slot);
      if (slots.length < STRIDE) return;
      after = stride.at(-1);
    }
  }

  get(id: string): GrantRecord | undefined {
    return this.#recordOrNone(this.#slotOf(id));
  }

  /** The same, of this server; another's is left where it lies. */
  getOwn(server: ServerName, id: string): GrantRecord | undefined {
    const slot = this.#slotOf(id);
    const isOwn = slot >= 0 && this.#slots.word(slot, WORD.server) === this.#packed.servers.find(server);
    return isOwn ? this.#packed.record(slot) : undefined;
  }

  withKey({ server, device, family, protocol, devicePort }: GrantKey): GrantRecord | undefined {
    const pair = this.#packed.pairOf(server, device);
    if (pair < 0) return undefined;
    const slot = this.#byKey.find(hashNumbers(pair, devicePort), (one) => {
      if (this.#slots.word(one, WORD.pair) !== pair || this.#slots.word(one, WORD.devicePort) !== devicePort)
        return false;
      const own = this.#packed.termsOf(one);
      return own.protocol === protocol && own.family === family;
    });
    return this.#recordOrNone(slot);
  }

  /** The grant at an external endpoint; at a device's own there may be several, of which one is meant. */
  atExternal(
    protocol: Protocol,
    { address, port }: Endpoint,
    isMeant: (record: GrantRecord) => boolean = () => true,
  ): GrantRecord | undefined {
    const slot = this.#byExternal.find(
      hashOfEndpoint(address, port),
      (one) =>
        this.#slots.word(one, WORD.externalPort) === port &&
        this.#slots.isAddress(one, address) &&
        this.#packed.termsOf(one).protocol === protocol &&
        isMeant(this.#packed.record(one)),
    );
    return this.#recordOrNone(slot);
  }

  atInner(address: InnerAddress): GrantRecord[] {
    return this.#slotsAt(address).map((slot) => this.#packed.record(slot));
  }

  /** How many of a server's grants count. */
  countOfServer(server: ServerName): number {
    const number = this.#packed.servers.find(server);
    return number < 0 ? 0 : this.#packed.servers.users(number) - (this.#dueOfServer.get(number) ?? 0);
  }

  countOfMtcUser(mtcUser: MtcUserName): number {
    const number = this.#packed.mtcUsers.find(mtcUser);
    return number < 0 ? 0 : this.#packed.mtcUsers.users(number) - (this.#dueOfMtcUser.get(number) ?? 0);
  }

  /** Those on an MTC user's devices, of one server or of all, as they are now; none may be put in or taken out meanwhile. */
  *ofMtcUser(mtcUser: MtcUserName, server?: ServerName): Generator<GrantRecord> {
    const user = this.#packed.mtcUsers.find(mtcUser);
    const of = server === undefined ? -1 : this.#packed.servers.find(server);
    if (user < 0 || (server !== undefined && of < 0)) return;
    // By whichever line is the shorter.
    const byServer = of >= 0 && this.#packed.servers.users(of) < this.#packed.mtcUsers.users(user);
    const line = byServer ? this.#lines[of] : this.#mtcUserLines[user];
    for (const slot of line?.after(-1) ?? []) {
      if (this.#slots.word(slot, WORD.mtcUser) !== user || (of >= 0 && this.#slots.word(slot, WORD.server) !== of))
        continue;
      yield this.#packed.record(slot);
    }
  }

  countOnDevice(server: ServerName, device: ExternalId): number {
    const number = this.#packed.pairOf(server, device);
    return number < 0 ? 0 : this.#packed.pairs.users(number) - (this.#dueOfPair.get(number) ?? 0);
  }

  /** A page of those that count, from a mark on. Read to its end, a list shows each grant once that lived all the while. */
  page(selection: Selection, after: Mark | undefined, limit: number): Page {
    const records: GrantRecord[] = [];
    let last: Mark | undefined;
    let next: Mark | undefined;
    for (const slot of this.#inOrder(selection, after)) {
      if (this.#calendar.isDue(slot)) continue;
      if (records.length === limit) {
        next = last;
        break;
      }
      records.push(this.#packed.record(slot));
      last = selection.mtcUser === undefined ? this.#markOf(slot) : this.#mtcUserMarkOf(slot);
    }
    return { records, next, total: this.#count(selection) };
  }

  /** Puts a grant in, or changes what is known of one that is in. Its server, and where it stands in a list, stay; its MTC user, as long as it lives (judge.ts), though nothing here rests on that. */
  put(record: GrantRecord): void {
    const known = this.#slotOf(record.id);
    const slot = known < 0 ? this.#slots.take() : known;
    const before = known < 0 ? undefined : this.#packed.shares(slot);
    const userBefore = this.#slots.word(slot, WORD.mtcUser);
    if (known >= 0) this.#unlink(slot);
    this.#packed.write(slot, record);
    if (known < 0) this.#enter(slot);
    else if (this.#slots.word(slot, WORD.mtcUser) !== userBefore) {
      leave(this.#mtcUserLines, userBefore, this.#slots.word(slot, WORD.mtcUserPlace));
      this.#enterMtcUser(slot);
    }
    this.#link(slot);
    if (before) this.#packed.release(before);
  }

  remove({ id }: Pick<GrantRecord, 'id'>): void {
    const slot = this.#slotOf(id);
    if (slot < 0) return;
    this.#unlink(slot);
    leave(this.#lines, this.#slots.word(slot, WORD.server), this.#slots.word(slot, WORD.place));
    leave(this.#mtcUserLines, this.#slots.word(slot, WORD.mtcUser), this.#slots.word(slot, WORD.mtcUserPlace));
    this.#packed.release(this.#packed.shares(slot));
    this.#slots.setDouble(slot, LONG.sequence, -1);
    this.#slots.give(slot);
    this.#size -= 1;
  }

  /** The time on the record's clock: whose end has come counts no more. */
  pass(nowNs: bigint): void {
    this.#calendar.pass(nowNs, (slot) => this.#countDue(slot, 1));
  }

  /** Those that end by the beginning of this second of the record's clock, and after that of the one before. */
  *endingIn(second: number): Generator<GrantRecord> {
    for (const slot of this.#calendar.of(second)) yield this.#packed.record(slot);
  }

  /** Some of those that count no more. */
  due(limit: number): GrantRecord[] {
    return this.#calendar.due(limit).map((slot) => this.#packed.record(slot));
  }

  #slotOf(id: string): number {
    return this.#byId.find(this.#slots.hash(id), (slot) => this.#slots.isText(slot, 'id', id));
  }

  #slotsAt(address: InnerAddress): number[] {
    const number = this.#packed.inners.find(address);
    return number < 0 ? [] : [...this.#atInner.of(number)];
  }

  *#inOrder({ mtcUser, server, inners }: Selection, after: Mark | undefined): Generator<number> {
    if (mtcUser !== undefined) yield* behind(this.#mtcUserLines, this.#packed.mtcUsers.find(mtcUser), after);
    else if (inners) yield* this.#sortedAt(inners, server, after);
    else if (server !== undefined) yield* behind(this.#lines, this.#packed.servers.find(server), after);
    else
      for (let number = after?.line ?? 0; number < this.#lines.length; number++)
        yield* behind(this.#lines, number, after);
  }

  /** A device has few grants beside all that there are. */
  #sortedAt(inners: readonly InnerAddress[], server: ServerName | undefined, after: Mark | undefined): number[] {
    const marked = inners
      .flatMap((one) => this.#slotsAt(one))
      .map((slot) => ({ slot, mark: this.#markOf(slot) }))
      .filter(
        ({ mark }) => (server === undefined || this.#packed.servers.at(mark.line) === server) && isBehind(mark, after),
      );
    return marked.sort((a, b) => (isBehind(a.mark, b.mark) ? 1 : -1)).map(({ slot }) => slot);
  }

  #count({ mtcUser, server, inners }: Selection): number {
    if (mtcUser !== undefined) return this.countOfMtcUser(mtcUser);
    if (inners) return this.#sortedAt(inners, server, undefined).filter((slot) => !this.#calendar.isDue(slot)).length;
    if (server !== undefined) return this.countOfServer(server);
    return this.#size - [...this.#dueOfServer.values()].reduce((sum, due) => sum + due, 0);
  }

  #markOf(slot: number): Mark {
    return { line: this.#slots.word(slot, WORD.server), sequence: this.#slots.double(slot, LONG.sequence) };
  }

  #mtcUserMarkOf(slot: number): Mark {
    const sequence = this.#slots.double(slot, LONG.mtcUserSequence);
    return { line: this.#slots.word(slot, WORD.mtcUser), sequence };
  }

  #isAt(slot: number, { line, sequence }: Mark): boolean {
    return this.#slots.double(slot, LONG.sequence) === sequence && this.#slots.word(slot, WORD.server) === line;
  }

  /** Puts a slot behind all others of its server, and of its MTC user. */
  #enter(slot: number): void {
    const server = this.#slots.word(slot, WORD.server);
    const line = this.#lines[server] ?? new Line((one, place) => this.#slots.setWord(one, WORD.place, place));
    this.#lines[server] = line;
    this.#slots.setDouble(slot, LONG.sequence, line.append(slot));
    this.#enterMtcUser(slot);
    this.#size += 1;
  }

  #enterMtcUser(slot: number): void {
    const user = this.#slots.word(slot, WORD.mtcUser);
    const line =
      this.#mtcUserLines[user] ?? new Line((one, place) => this.#slots.setWord(one, WORD.mtcUserPlace, place));
    this.#mtcUserLines[user] = line;
    this.#slots.setDouble(slot, LONG.mtcUserSequence, line.append(slot));
  }

  #link(slot: number): void {
    this.#byId.add(slot);
    this.#byKey.add(slot);
    this.#byExternal.add(slot);
    this.#atInner.add(this.#slots.word(slot, WORD.inner), slot);
    if (this.#packed.termsOf(slot).state === 'held') this.#held += 1;
    this.#calendar.add(slot, this.#slots.long(slot, LONG.expiresAtNs));
    if (this.#calendar.isDue(slot)) this.#countDue(slot, 1);
  }

  #unlink(slot: number): void {
    this.#byId.remove(slot);
    this.#byKey.remove(slot);
    this.#byExternal.remove(slot);
    this.#atInner.remove(this.#slots.word(slot, WORD.inner), slot);
    if (this.#packed.termsOf(slot).state === 'held') this.#held -= 1;
    if (this.#calendar.isDue(slot)) this.#countDue(slot, -1);
    this.#calendar.remove(slot);
  }

  #countDue(slot: number, change: 1 | -1): void {
    for (const [due, field] of [
      [this.#dueOfServer, WORD.server],
      [this.#dueOfMtcUser, WORD.mtcUser],
      [this.#dueOfPair, WORD.pair],
    ] as const) {
      const number = this.#slots.word(slot, field);
      const count = (due.get(number) ?? 0) + change;
      if (count > 0) due.set(number, count);
      else due.delete(number);
    }
  }

  #recordOrNone(slot: number): GrantRecord | undefined {
    return slot < 0 ? undefined : this.#packed.record(slot);
  }

  #hashOfKey(slot: number): number {
    return hashNumbers(this.#slots.word(slot, WORD.pair), this.#slots.word(slot, WORD.devicePort));
  }
}

/** Whether a place lies behind another; behind none lies every one. */
function isBehind(mark: Mark, other: Mark | undefined): boolean {
  if (!other) return true;
  return mark.line === other.line ? mark.sequence > other.sequence : mark.line > other.line;
}

/** The slots of a line behind a mark, where it is one of this line. */
function behind(lines: readonly (Line | undefined)[], number: number, after: Mark | undefined): Iterable<number> {
  return lines[number]?.after(after?.line === number ? after.sequence : -1) ?? [];
}

function leave(lines: (Line | undefined)[], number: number, place: number): void {
  const line = lines[number];
  line?.remove(place);
  if (line?.size === 0) lines[number] = undefined;
}
