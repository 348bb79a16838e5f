/**
 * A policy in pieces, on its way from the thread that compiled it: what is
 * long goes in slices, so that the loop that takes them answers others in
 * between. It arrives as it was, frozen; only what was one object in two
 * pieces is two equal ones.
 */
import { frozen } from '../core/document.ts';
import type { Policy } from '../policy/policy.ts';

/** So many entries of a list or map at once: some milliseconds of the loop that takes them. */
const SLICE = 256;

/** Where in the policy it belongs: a member, or one of a member's (`staged` is a policy itself). */
type Where = readonly [string, ...string[]];

export type Piece =
  | { readonly at: Where; readonly whole: unknown }
  | { readonly at: Where; readonly list: readonly unknown[] }
  | { readonly at: Where; readonly entries: readonly (readonly [unknown, unknown])[] };

export function* piecesOf(policy: Policy): Generator<Piece> {
  for (const [name, member] of Object.entries(policy)) yield* piecesAt([name], member);
}

function* piecesAt(at: Where, value: unknown): Generator<Piece> {
  if (Array.isArray(value)) for (const list of slices(value)) yield { at, list };
  else if (value instanceof Map) for (const entries of slices([...value])) yield { at, entries };
  else if (typeof value === 'object' && value !== null && at.length === 1) {
    for (const [name, member] of Object.entries(value)) yield* piecesAt([...at, name], member);
  } else yield { at, whole: value };
}

/** At least one: an empty list is a list, too. */
function* slices<Item>(items: readonly Item[]): Generator<readonly Item[]> {
  for (let from = 0; from === 0 || from < items.length; from += SLICE) yield items.slice(from, from + SLICE);
}

type Members = { [name: string]: unknown };

/** Puts a policy together again, piece by piece. */
export class Assembly {
  readonly #policy: Members = {};

  add(piece: Piece): void {
    const path = [...piece.at];
    const name = path.pop() as string;
    const [owner] = path;
    if (owner !== undefined) this.#policy[owner] ??= {};
    const members = owner === undefined ? this.#policy : (this.#policy[owner] as Members);
    if ('whole' in piece) members[name] = frozen(piece.whole);
    else if ('list' in piece) {
      members[name] ??= [];
      for (const item of piece.list) (members[name] as unknown[]).push(frozen(item));
    } else {
      members[name] ??= new Map();
      for (const [key, value] of piece.entries) (members[name] as Map<unknown, unknown>).set(key, frozen(value));
    }
  }

  /** All pieces are there. */
  done(): Policy {
    const inner = Object.values(this.#policy).filter((member) => typeof member === 'object' && member !== null);
    for (const member of inner) {
      for (const part of Object.values(member as object)) if (Array.isArray(part)) Object.freeze(part);
      Object.freeze(member);
    }
    return Object.freeze(this.#policy) as unknown as Policy;
  }
}
