/**
 * An edition: a policy that was put in force, as the text of its rule files,
 * with who did so, when, how, and what that changed. Numbers count up; the one
 * with the highest is in force. Text is kept, not what it compiles to: what an
 * operator reads in the history is what was applied.
 *
 * An edition that was applied with `--confirm` is on trial until it is
 * confirmed; one that is not goes back to the one before it, which makes an
 * edition of its own. That a trial was not confirmed is on record from its
 * beginning, so whoever starts after a crash knows.
 */
import type { Clock } from '../core/ports.ts';
import type { Policy } from '../policy/policy.ts';
import type { RuleFile } from '../policy/rules.ts';

/** Rule files as text, and a hash of it. */
export interface Texts {
  readonly files: readonly RuleFile[];
  readonly digest: string;
}

/** How an edition came to be in force. */
export type How = 'start' | 'apply' | 'autoApply' | 'rollback' | 'wentBack' | 'offline';

/** Who did it: the user behind the management socket, or the agent by itself. */
export interface Who {
  readonly uid?: number;
  readonly name: string;
}

/** In characters, after its edges are trimmed. */
export const LONGEST_COMMENT = 500;
export const COMMENT_EXPECTED = `expected a comment of 1 to ${LONGEST_COMMENT} characters`;

/** An edition but for its files. */
export interface EditionHead {
  readonly number: number;
  /** Of the policy that its files compile to. */
  readonly version: string;
  readonly atMs: number;
  readonly by: Who;
  readonly how: How;
  /** The edition whose text it is again, where it went or was rolled back. */
  readonly of?: number;
  readonly comment?: string;
  /** Against the edition before, in words. */
  readonly changed: readonly string[];
  /** Of its files' names and texts. */
  readonly digest: string;
  /** On trial until then (UTC), if nobody has confirmed it. */
  readonly confirmByMs?: number;
  readonly confirmed?: { readonly atMs: number; readonly by: Who };
}

export interface Edition extends EditionHead {
  readonly files: readonly RuleFile[];
}

/** What is in force: the edition, and what it compiled to. */
export interface InForce {
  readonly edition: Edition;
  readonly policy: Policy;
}

/** How an edition is made. */
export interface Made {
  readonly how: How;
  readonly by: Who;
  readonly changed: readonly string[];
  readonly of?: number | undefined;
  readonly comment?: string | undefined;
  readonly confirmSeconds?: number | undefined;
}

/** The agent by itself: when it starts, and while it runs. */
export const START: Who = { name: 'start' };
export const AGENT: Who = { name: 'agent' };

/** Whether it was to be confirmed, and has not been. */
export function isOnTrial({ confirmByMs, confirmed }: EditionHead): boolean {
  return confirmByMs !== undefined && confirmed === undefined;
}

/** So many lines of what changed are kept, and so many characters of each. */
const LINES_MOST = 200;
const CHARACTERS_MOST = 500;

/** What changed, within bounds. */
export function bounded(lines: readonly string[]): string[] {
  const kept = lines.slice(0, LINES_MOST).map((line) => cut(line, CHARACTERS_MOST));
  return lines.length > LINES_MOST ? [...kept, `and ${lines.length - LINES_MOST} more`] : kept;
}

function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

export function newEdition(
  number: number,
  { files, digest }: Texts,
  { version }: Policy,
  made: Made,
  clock: Clock,
): Edition {
  const { how, by, changed, of, comment, confirmSeconds } = made;
  const atMs = clock.nowMs();
  return {
    ...{ number, version, atMs, by, how, changed, digest, files },
    ...(of !== undefined && { of }),
    ...(comment !== undefined && { comment }),
    ...(confirmSeconds !== undefined && { confirmByMs: atMs + confirmSeconds * 1000 }),
  };
}

/** An edition in the log. */
export function factsOf({ number, version, how, by, comment, changed }: EditionHead): Record<string, unknown> {
  return { edition: number, policy: version, how, by: by.name, byUid: by.uid, comment, changed: changed.length };
}
