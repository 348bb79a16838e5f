/**
 * Answers without an end: server-sent events (WHATWG HTML 9.2) over the API's
 * own connections.
 *
 * Invariants: a party has so many and no more; who does not keep up is cut,
 * and never makes the agent grow; who is not who it was any more, by the
 * policy and the lists of now, hears nothing more. A comment goes out now and
 * then, so that both ends notice when the other is gone.
 */
import type { ServerResponse } from 'node:http';
import { ownPart, type StreamLimits } from './limits.ts';
import type { Follow, StreamEvent } from './operation.ts';

/** How long a client waits before it comes again, unless it knows better. */
const RETRY_MS = 5_000;

interface Stream {
  readonly party: string;
  readonly response: ServerResponse;
  /** Whether the peer is still who it was. */
  readonly passes: () => boolean;
}

export class Streams {
  readonly #limits: StreamLimits;
  readonly #parties: () => number;
  readonly #cut: () => void;
  readonly #open = new Set<Stream>();
  readonly #ofParty = new Map<string, number>();
  readonly #beating: NodeJS.Timeout;

  /** `cut` is told of each reader that did not keep up. */
  constructor(limits: StreamLimits, parties: () => number, cut: () => void) {
    this.#limits = limits;
    this.#parties = parties;
    this.#cut = cut;
    this.#beating = setInterval(() => {
      for (const stream of this.#open) this.#write(stream, ': \n\n');
    }, limits.heartbeatMs).unref();
  }

  /** Whether a party may have one more. */
  hasRoom(party: string): boolean {
    return (this.#ofParty.get(party) ?? 0) < ownPart(this.#limits.perParty, this.#parties());
  }

  /** Answers with a stream until either end is gone. */
  begin(stream: Stream, headers: Readonly<Record<string, string>>, follow: Follow): void {
    const { party, response } = stream;
    this.#open.add(stream);
    this.#ofParty.set(party, (this.#ofParty.get(party) ?? 0) + 1);
    response.writeHead(200, { ...headers, 'content-type': 'text/event-stream' });
    response.write(`retry: ${RETRY_MS}\n\n`);
    const end = follow((events) => this.#write(stream, events.map(frameOf).join('')));
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
    for (const { response } of this.#open) response.end();
  }

  #write({ response, passes }: Stream, text: string): void {
    if (response.destroyed || response.writableEnded || text === '') return;
    if (!passes()) return void response.destroy();
    response.write(text);
    if (response.writableLength <= this.#limits.unreadBytes) return;
    this.#cut();
    response.destroy();
  }
}

/** No member holds a line end: an id and a name are ours, and JSON has none. */
function frameOf({ id, event, data }: StreamEvent): string {
  return `${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${data}\n\n`;
}
