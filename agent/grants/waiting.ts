/**
 * Requests that wait for their device: accepted, on record, and without an
 * external endpoint until the device has an address of the family that they are
 * for. They wait for that alone. The moment it has one they are judged again,
 * whole, and granted, or end with what they were refused for.
 *
 * Invariants:
 * - durable before it is accepted; its end is on record before whoever asked
 *   for it is answered, as with grants;
 * - it waits to the end that it was accepted for, on the clock of the boot, and
 *   over a reboot by UTC where that can be believed;
 * - a device that is another MTC user's by now is waited for no more;
 * - it counts as a grant of its server and on its device, and holds its key;
 * - the trigger that wakes its device is on record before it, and is recalled
 *   when its end is on record: killed in between, what is left over is a trigger
 *   without a request, and that ends at the next start;
 * - what a binding costs does not grow with those that wait for other devices.
 */
import { onThisBoot } from '../core/boot-time.ts';
import type { Refusal } from '../core/refusals.ts';
import { breathe, faultsOf, inSlices, SLICE } from '../core/slices.ts';
import type { ExternalId, GrantId, MtcUserName, ServerName } from '../core/words.ts';
import type { Ground } from './ground.ts';
import type { WaitEndCause } from './lifecycle.ts';
import type { GrantKey, GrantRecord, Retry } from './record.ts';
import { isOver, type Selection, WaitingList, type WaitingPage } from './waiting-list.ts';
import { type EndedWait, namesOfWait, type WaitingRequest } from './waiting-request.ts';

/** So many in all, each judged anew when a network comes back at once. */
const WAITING_MOST = 65_536;
/** Of one server: none can take from the others all that there is. */
const WAITING_MOST_OF_SERVER = WAITING_MOST / 4;

/** Judges a request again, and grants it if it may be; what still waits is undefined. */
type Grant = (request: WaitingRequest) => Promise<GrantRecord | Refusal | undefined>;

/** Whether its device is no longer one of the MTC user by whose word it was accepted. */
type HasOtherOwner = (request: WaitingRequest) => boolean;

export class Waiting {
  readonly #ground: Ground;
  readonly #grant: Grant;
  readonly #hasOtherOwner: HasOtherOwner;
  readonly #list: WaitingList;
  /** Those whose record is being written, or that are being granted. */
  readonly #busy = new Map<GrantId, Promise<unknown>>();
  /** Ended, and the store has not taken it yet. */
  readonly #unrecorded = new Map<GrantId, EndedWait>();

  constructor(ground: Ground, grant: Grant, hasOtherOwner: HasOtherOwner) {
    this.#ground = ground;
    this.#grant = grant;
    this.#hasOtherOwner = hasOtherOwner;
    this.#list = new WaitingList(ground.clock.boottimeNs());
  }

  get size(): number {
    return this.#list.size;
  }

  /** Why no more may wait of a server; undefined where one may. */
  fullFor(server: ServerName): string | undefined {
    if (this.size >= WAITING_MOST) return `${this.size} requests wait`;
    const own = this.countOfServer(server);
    return own >= WAITING_MOST_OF_SERVER ? `${own} requests of this server wait` : undefined;
  }

  get(id: string): WaitingRequest | undefined {
    return this.#list.get(id);
  }

  /** One that waits, or has ended without a grant. */
  find(id: string): WaitingRequest | undefined {
    const found = this.get(id);
    // On record with a later sweep.
    if (found && this.#isOver(found) && !this.#busy.has(found.id))
      void this.#end(found, 'waitedTooLong').catch(() => {});
    return this.get(id) ?? this.#unrecorded.get(id as GrantId) ?? this.#ground.store.findWait(id);
  }

  /** A server's own. Another's is looked for as long as one that never was. */
  show({ name }: { readonly name: ServerName }, id: string): WaitingRequest | undefined {
    const found = this.get(id)?.server === name ? this.find(id) : this.#unrecorded.get(id as GrantId);
    return found?.server === name ? found : this.#ground.store.findOwnWait(name, id);
  }

  withKey(key: GrantKey): WaitingRequest | undefined {
    return this.#list.withKey(key, this.#nowNs());
  }

  countOfServer(server: ServerName): number {
    return this.#list.countOfServer(server);
  }

  countOnDevice(server: ServerName, device: ExternalId): number {
    return this.#list.countOnDevice(server, device);
  }

  /** Those of a server, or for a device, or both, in the order in which they came, behind a place. */
  page(of: Selection, after: number, limit: number): WaitingPage {
    return this.#list.page(of, after, limit, this.#nowNs());
  }

  /**
   * Accepts a request. Resolves when it is on record; with the grant, where the
   * device has been bound meanwhile. What it is refused for then is its end, as
   * it would be later. `wake` accepts a trigger for the device: where that is
   * refused, so is the request. @throws AgentError storeFailed
   */
  async accept(
    request: WaitingRequest,
    retry?: Retry,
    wake?: () => Promise<Refusal | undefined>,
  ): Promise<WaitingRequest | GrantRecord | Refusal> {
    const { log, waker } = this.#ground;
    this.#list.put(request);
    const writes = this.#record(request, retry, wake);
    this.#busy.set(
      request.id,
      writes.catch(() => {}),
    );
    try {
      const refused = await writes;
      if (refused) {
        this.#list.remove(request);
        return refused;
      }
    } catch (fault) {
      await this.#end(request, 'recordNotWritten').catch(() => {}); // it may be on record all the same
      throw fault;
    } finally {
      this.#busy.delete(request.id);
    }
    log.info({ ...namesOfWait(request), rule: request.rule, until: request.waitsUntilMs }, 'waitBegun');
    const answer = await this.#try(request);
    if (wake && this.get(request.id) === request) waker()?.begin(request.id);
    return answer && !('reason' in answer) ? answer : request;
  }

  async #record(
    request: WaitingRequest,
    retry: Retry | undefined,
    wake: (() => Promise<Refusal | undefined>) | undefined,
  ): Promise<Refusal | undefined> {
    const refused = await wake?.();
    if (!refused) await this.#ground.store.wait(request, retry);
    return refused;
  }

  /** Devices may have got an address: what waits for it is granted, or ends. Fails never: it is told. */
  async bound(devices: Iterable<ExternalId>): Promise<void> {
    const waiting = [...new Set(devices)].flatMap((device) => [...this.#list.onDevice(device)]);
    await inSlices(waiting, async (one) => {
      await this.#try(one).catch((fault: Error) => {
        this.#ground.log.error({ ...namesOfWait(one), message: fault.message }, 'waitFailed');
      });
    });
  }

  /** Grants one if its device can be reached; undefined where it goes on waiting, or is granted already. */
  async #try(request: WaitingRequest): Promise<GrantRecord | Refusal | undefined> {
    const { directory, revoked } = this.#ground;
    const { id, device, family, certificate } = request;
    if (this.get(id) !== request || this.#busy.has(id)) return undefined;
    if (!directory.bindingOf(device, family)) return undefined;
    if (this.#isOver(request)) await this.#end(request, 'waitedTooLong');
    else if (revoked(certificate)) await this.#end(request, 'certificateRevoked');
    else if (this.#hasOtherOwner(request)) await this.#end(request, 'ownerChanged');
    else {
      const grants = this.#grant(request);
      this.#busy.set(
        id,
        grants.catch(() => {}),
      );
      const answer = await grants.finally(() => this.#busy.delete(id));
      if (answer && 'reason' in answer && this.get(id)) await this.#end(request, answer.reason);
      return answer;
    }
    return undefined;
  }

  /** It waits no more, since there is a grant of its id on record by now. */
  granted(request: WaitingRequest): void {
    this.#list.remove(request);
    this.#ground.waker()?.over(request.id);
  }

  /**
   * Ends one, durably; what is being granted is waited for. Returns false where
   * it does not wait: it may have been granted. @throws AgentError storeFailed;
   * it has ended all the same
   */
  async end({ id }: Pick<WaitingRequest, 'id'>, cause: WaitEndCause): Promise<boolean> {
    await this.#busy.get(id);
    const request = this.get(id);
    if (request) await this.#end(request, cause);
    else {
      const ended = this.#unrecorded.get(id);
      if (!ended) return false;
      await this.#write(ended);
    }
    return true;
  }

  /** Ends those for an MTC user's devices to which it objects now, durably. @throws AgentError storeFailed */
  async heed(mtcUser: MtcUserName, objection: (request: WaitingRequest) => WaitEndCause | undefined): Promise<void> {
    await inSlices([...this.#list.ofMtcUser(mtcUser)], async (one) => {
      const cause = objection(one);
      if (cause) await this.end(one, cause);
    });
  }

  /** Ends those whose devices are another MTC user's by now, durably. @throws AgentError storeFailed; they have ended all the same */
  async review(): Promise<void> {
    await inSlices([...this.#list.all()], async (one) => {
      if (this.#hasOtherOwner(one)) await this.end(one, 'ownerChanged');
    });
  }

  async #end(request: WaitingRequest, endCause: WaitEndCause): Promise<void> {
    const ended: EndedWait = { ...request, state: 'ended', endCause, endedAtMs: this.#ground.clock.nowMs() };
    this.#list.remove(request);
    this.#unrecorded.set(request.id, ended);
    this.#ground.log.info({ ...namesOfWait(request), cause: endCause }, 'waitEnded');
    this.#ground.watcher?.ended(ended);
    await this.#write(ended);
  }

  async #write(ended: EndedWait): Promise<void> {
    await this.#ground.store.endWait(ended);
    this.#unrecorded.delete(ended.id);
    this.#ground.waker()?.over(ended.id);
  }

  /** Ends those whose time is over, and writes what the store did not take. One that fails holds up no other. */
  async sweep(): Promise<void> {
    const faults = await faultsOf([inSlices([...this.#unrecorded.values()], (one) => this.#write(one))]);
    const over = this.#list.over(this.#nowNs());
    faults.push(
      ...(await faultsOf([
        inSlices(over, async (one) => {
          await this.end(one, 'waitedTooLong');
        }),
      ])),
    );
    if (faults.length > 0) throw faults[0];
  }

  /**
   * At a start, when grants can be opened: what waited on record waits again, to
   * the same end, and what has been bound since is granted.
   */
  async resume(): Promise<void> {
    const { store, clock, bootId } = this.#ground;
    const nowMs = clock.nowMs();
    const doubt = store.isOlder ? 'recordOutdated' : nowMs < store.latestMs() ? 'clockUncertain' : undefined;
    const moved: WaitingRequest[] = [];
    const ended: [WaitingRequest, WaitEndCause][] = [];
    let looked = 0;
    for (const kept of store.waits()) {
      const isOfBoot = kept.bootId === bootId;
      const request = isOfBoot ? kept : ofThisBoot(kept, bootId, nowMs, clock.boottimeNs());
      this.#list.put(request);
      if (doubt && (!isOfBoot || store.isOlder)) ended.push([request, doubt]);
      else if (this.#isOver(request)) ended.push([request, 'waitedTooLong']);
      else if (this.#hasOtherOwner(request)) ended.push([request, 'ownerChanged']);
      else if (!isOfBoot) moved.push(request);
      looked += 1;
      if (looked % SLICE === 0) await breathe();
    }
    if (moved.length > 0) await store.rewait(bootId, moved);
    await inSlices(ended, ([request, cause]) => this.#end(request, cause));
    await this.bound([...this.#list.devices()]);
  }

  #isOver(request: WaitingRequest): boolean {
    return isOver(request, this.#nowNs());
  }

  #nowNs(): bigint {
    return this.#ground.clock.boottimeNs();
  }
}

function ofThisBoot(request: WaitingRequest, bootId: string, nowMs: number, nowNs: bigint): WaitingRequest {
  const { waitsUntilMs: untilMs, waitSeconds: seconds } = request;
  return { ...request, bootId, waitsUntilNs: onThisBoot({ untilMs, seconds }, nowMs, nowNs) };
}
