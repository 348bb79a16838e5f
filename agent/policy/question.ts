/**
 * What is asked of a policy, and what of a rule it meets: its members, its
 * condition, its hours. Each is said for itself; what follows from it stands
 * in decide.ts, and explain.ts tells what was missing.
 */
import type { Address, Family } from '../core/net.ts';
import type { InnerAddress, MtcUserName, Protocol, ServerName } from '../core/words.ts';
import { type Context, contextOf, holds } from './condition.ts';
import { type DeviceFacts, isSelected } from './groups.ts';
import { ALWAYS, type Window, windowAt } from './hours.ts';
import type { AllowRule, Match, TriggerUsage, Usage } from './policy.ts';
import type { BegunToday } from './preferences.ts';

/** What every question is about, be it asked for a grant or a trigger. */
export interface Subject {
  readonly server: ServerName;
  /** Absent where the directory knows no such device. */
  readonly device?:
    | (DeviceFacts & {
        readonly boundFamilies: readonly Family[];
        /** What it is bound to; absent where nobody knows (a policy test). */
        readonly inner?: readonly InnerAddress[];
      })
    | undefined;
  readonly protocol: Protocol;
  readonly port: number;
  readonly durationSeconds: number;
  /** UTC. `anyTime`: hours are taken to be within, and never to close. */
  readonly nowMs: number | 'anyTime';
}

export interface Question extends Subject {
  /** Where granted packets come from; absent: where the request came from. */
  readonly applicationServer?: Address | 'all' | undefined;
  /** Its port; absent: any. */
  readonly remotePort?: number | undefined;
  readonly requestAddress: Address;
  readonly ipFamily?: Family | undefined;
  readonly usage: Usage;
  /** Absent: nothing begins by it (a grant that is there), or nobody counts. */
  readonly begunToday?: BegunToday | undefined;
}

/** May this server send the device a trigger? A trigger is UDP to its port; `durationSeconds` is its validity. */
export interface TriggerQuestion extends Subject {
  readonly payloadBytes: number;
  /** A validity beyond a rule's is cut to that, and refuses nothing: nobody counts on the whole of it. */
  readonly isCut?: boolean;
  readonly usage: TriggerUsage;
}

/** Whether a request meets a member of a rule; one that the rule does not have is met. */
const MEETS: { readonly [Member in keyof Match]-?: (match: Match, question: Subject) => boolean } = {
  servers: ({ servers }, { server }) => !servers || servers.includes(server),
  devices: ({ devices }, { device }) =>
    !devices || devices.some((selector) => device !== undefined && isSelected(selector, device)),
  protocols: ({ protocols }, { protocol }) => !protocols || protocols.includes(protocol),
  ports: ({ ports }, { port }) => !ports || ports.some(({ low, high }) => low <= port && port <= high),
};
const MEMBERS = Object.keys(MEETS) as (keyof Match)[];

/** The first member of a rule that this request does not meet; undefined where the rule matches. */
export function mismatchOf(match: Match, question: Subject): keyof Match | undefined {
  return MEMBERS.find((member) => !MEETS[member](match, question));
}

/** All of them. */
export function mismatchesOf(match: Match, question: Subject): (keyof Match)[] {
  return MEMBERS.filter((member) => !MEETS[member](match, question));
}

/** Whether the condition of a rule holds, where it has one; where that cannot be said a deny denies, and an allow is stopped. */
export function heldBy({ when }: Pick<AllowRule, 'when'>, context: () => Context): ConditionResult | false {
  return when ? holds(when, context()) : true;
}

export type ConditionResult = true | { readonly failed: string };

/** What conditions read, made where the first of them asks. */
export function contextOnce(
  { server, protocol, port, durationSeconds }: Subject,
  device: DeviceFacts,
  mtcUser: MtcUserName,
  family: Family | undefined,
): () => Context {
  let context: Context | undefined;
  return () => {
    context ??= contextOf({ device, server, mtcUser, protocol, port, durationSeconds, family });
    return context;
  };
}

/** The window of a rule that a request falls into, or the gap between two. */
export function windowOf({ hours }: Pick<AllowRule, 'hours'>, { nowMs }: Subject): Window {
  return hours && nowMs !== 'anyTime' ? windowAt(hours, nowMs) : ALWAYS;
}

/** Whole ones, until an instant. */
export function secondsLeft(untilMs: number, { nowMs }: Subject): number {
  return nowMs === 'anyTime' ? Number.POSITIVE_INFINITY : Math.floor((untilMs - nowMs) / 1000);
}
