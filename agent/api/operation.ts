/**
 * An API as the server serves it: a contract of its own, where its paths
 * begin, whose it is, and what each of its operations does.
 */
import type { Refusal } from '../core/refusals.ts';
import type { Asker, MtcUserAsker } from '../core/words.ts';

/** A request that is authenticated and follows the contract. */
export interface Call<Who = Asker> {
  readonly who: Who;
  readonly params: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, unknown>>;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: unknown;
  /** Who asked for what, for the log. */
  readonly asked: () => Readonly<Record<string, string>>;
}

export interface Answer {
  readonly status: number;
  readonly body?: object;
  /** Instead of a body: a text, whose type stands in the headers. */
  readonly text?: string;
  /** Instead of a body: JSON in pieces, made as they are sent, so that none of it waits in memory. */
  readonly pieces?: AsyncIterable<string>;
  /** Instead of a body: events, for as long as both ends want (streams.ts). */
  readonly follow?: Follow;
  readonly headers?: Readonly<Record<string, string>>;
}

/** One event of a stream; `data` is JSON on one line. */
export interface StreamEvent {
  readonly id?: string;
  readonly event: string;
  readonly data: string;
}

/** Begins to tell; the function returned ends it. What many are told is one and the same list: its wording is made once. */
export type Follow = (tell: (events: readonly StreamEvent[]) => void) => () => void;

export type Operation<Who = Asker> = (call: Call<Who>) => Answer | Refusal | Promise<Answer | Refusal>;

/** Operations are by their operationId; they are those of the contract, no more and no fewer. */
export type Api = {
  /** The name of its file in this folder. */
  readonly contract: string;
  /** Of all its paths, without a slash at the end. */
  readonly basePath: string;
} & (
  | { readonly role: 'server'; readonly operations: Readonly<Record<string, Operation>> }
  | { readonly role: 'mtcUser'; readonly operations: Readonly<Record<string, Operation<MtcUserAsker>>> }
);
