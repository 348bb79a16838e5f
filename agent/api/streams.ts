/**
 * Answers without an end: server-sent events (WHATWG HTML 9.2) over the API's
 * own connections.
 *
 * Invariants: a party has so many and no more; who does not keep up is cut,
 * and never makes the agent grow; who is not who it was any more, by the
 * policy and the lists of now, hears nothing more. A comment goes out now and
 * then, so that both ends notice when the other is gone.
 *
 * What a hundred readers are told is put into words once; a reader costs no
 * more than a few writes a second, whatever it is told: the first event goes
 * at once, and those that follow it soon go together.
 */
import type { ServerResponse } from 'node:http';
import { ownPart, type StreamLimits } from './limits.ts';
import type { Follow, StreamEvent } from './operation.ts';

/** How long a client waits before it comes again, unless it knows better. */
const RETRY_MS = 5_000;
/** So long after a write comes the next, at the soonest. */
const GATHER_MS = 500;
const HEARTBEAT = Buffer.from(': \n\n');

interface Reader {
  readonly party: string;
  readonly response: ServerResponse;
  /** Whether the peer is still who it was. */
  readonly passes: () => boolean;
}

interface Stream extends Reader {
  /** What goes with the next write, and how much that is. */
  gathered: Buffer[];
  gatheredBytes: number;
  /** What has just been written to gathers what comes next. */
  isGathering: boolean;
}

export class Streams {
  readonly #limits: StreamLimits;
  readonly #parties: () => number;
  readonly #cut: () => void;
  readonly #open = new Set<Stream>();
  readonly #ofParty = new Map<string, number>();
  readonly #beating: NodeJS.Timeout;
  /** The wording of a batch that many readers are told. */
  readonly #frames = new WeakMap<readonly StreamEvent[], Buffer>();
  /** Streams that gather, while there are any. */
  #gathering: Stream[] = [];
  #flushing: NodeJS.Timeout | undefined;

  /** `cut` is told of each reader that did not keep up. */
  constructor(limits: StreamLimits, parties: () => number, cut: () => void) {
    this.#limits = limits;
    this.#parties = parties;
    this.#cut = cut;
    this.#beating = setInterval(() => {
      for (const stream of this.#open) this.#tell(stream, HEARTBEAT);
    }, limits.heartbeatMs).unref();
  }

  /** Whether a party may have one more. */
  hasRoom(party: string): boolean {
    return (this.#ofParty.get(party) ?? 0) < ownPart(this.#limits.perParty, this.#parties());
  }

  /** Answers with a stream until either end is gone. */
  begin(reader: Reader, headers: Readonly<Record<string, string>>, follow: Follow): void {
    const { party, response } = reader;
    const stream: Stream = { ...reader, gathered: [], gatheredBytes: 0, isGathering: false };
    this.#open.add(stream);
    this.#ofParty.set(party, (this.#ofParty.get(party) ?? 0) + 1);
    response.writeHead(200, { ...headers, 'content-type': 'text/event-stream' });
    response.write(`retry: ${RETRY_MS}\n\n`);
    const end = follow((events) => this.#tell(stream, this.#framesOf(events)));
    response.once('close', () => {
      end();
      this.#open.delete(stream);
      const left = (this.#ofParty.get(party) ?? 0) - 1;
      if (left > 0) this.#ofParty.set(party, left);
      else this.#ofParty.delete(party);
    });
  }

  /** Ends all. */
  close(): void {
    clearInterval(this.#beating);
    clearTimeout(this.#flushing);
    for (const stream of this.#open) {
      this.#write(stream);
      stream.response.end();
    }
  }

  #framesOf(events: readonly StreamEvent[]): Buffer {
    const known = this.#frames.get(events);
    if (known) return known;
    const made = Buffer.from(events.map(frameOf).join(''));
    this.#frames.set(events, made);
    return made;
  }

  #tell(stream: Stream, frames: Buffer): void {
    stream.gathered.push(frames);
    stream.gatheredBytes += frames.length;
    // What is gathered is unread too: it does not wait until it is more than a reader may leave.
    if (stream.isGathering && stream.gatheredBytes * 2 < this.#limits.unreadBytes) return;
    this.#write(stream);
    if (!stream.isGathering) this.#gather(stream);
  }

  #gather(stream: Stream): void {
    stream.isGathering = true;
    this.#gathering.push(stream);
    this.#flushing ??= setTimeout(() => this.#flush(), GATHER_MS).unref();
  }

  #flush(): void {
    this.#flushing = undefined;
    const streams = this.#gathering;
    this.#gathering = [];
    for (const stream of streams) {
      stream.isGathering = false;
      if (stream.gathered.length === 0) continue;
      this.#write(stream);
      this.#gather(stream);
    }
  }

  #write(stream: Stream): void {
    const { response, passes, gathered } = stream;
    const frames = gathered.length === 1 && gathered[0] ? gathered[0] : Buffer.concat(gathered);
    stream.gathered = [];
    stream.gatheredBytes = 0;
    if (response.destroyed || response.writableEnded || frames.length === 0) return;
    if (!passes()) return void response.destroy();
    // What the writes before this one have left: a reader has not yet had the time to read this one.
    if (response.writableLength <= this.#limits.unreadBytes) return void response.write(frames);
    this.#cut();
    response.destroy();
  }
}

/** No member holds a line end: an id and a name are ours, and JSON has none. */
function frameOf({ id, event, data }: StreamEvent): string {
  return `${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${data}\n\n`;
}
