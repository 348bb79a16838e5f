/**
 * Which requests are worked on, and when: no server keeps another from its
 * turn, and none can bring more than its part.
 *
 * Two bounds, since they guard two things. From the end of its header until
 * its answer has left, a request takes memory: of such each server has a
 * number of its own, and what is beyond it is refused before its body is read.
 * From its operation's begin to its end it takes the loop and the disk: there
 * it waits for its server's turn (turns.ts). A body that is slow to arrive, or
 * an answer that is slow to be read, takes no turn from anybody.
 *
 * A client that waits for its answers is slowed down by its turns alone, since
 * it can have no more requests under way than connections; only one that
 * pipelines, or holds answers back, is refused.
 */
import { ownPart, type RequestLimits } from './limits.ts';
import { Turns } from './turns.ts';

export class Admission {
  readonly #limits: RequestLimits;
  /** How many servers there are to share with. */
  readonly #servers: () => number;
  readonly #nowMs: () => number;
  readonly #turns: Turns;
  readonly #underWay = new Map<string, number>();

  constructor(limits: RequestLimits, servers: () => number, nowMs: () => number) {
    this.#limits = limits;
    this.#servers = servers;
    this.#nowMs = nowMs;
    this.#turns = new Turns(limits.atOnce);
  }

  /** How many requests of the server are under way. */
  underWay(server: string): number {
    return this.#underWay.get(server) ?? 0;
  }

  /** Lets a request in; false where its server has its part already. */
  enter(server: string): boolean {
    const count = this.underWay(server);
    if (count >= ownPart(this.#limits.underWay, this.#servers())) return false;
    this.#underWay.set(server, count + 1);
    return true;
  }

  /** One that was let in is answered, or will never be. */
  leave(server: string): void {
    const left = this.underWay(server) - 1;
    if (left > 0) this.#underWay.set(server, left);
    else this.#underWay.delete(server);
  }

  /** Its server's turn, which `done` gives back; or false where it did not come in time. */
  turn(server: string): true | Promise<boolean> {
    return this.#turns.take(server, this.#nowMs());
  }

  done(): void {
    this.#turns.done();
  }

  /** Sends those away who have waited for too long. */
  sweep(): void {
    this.#turns.expire(this.#nowMs() - this.#limits.waitMs);
  }
}
