/** Requests that wait, as rows of the database and back: plain values only, for the thread that writes. */
import { address } from '../core/net.ts';
import type { ExternalId, GrantId, GrantRequest } from '../core/words.ts';
import type { WaitEndCause } from './lifecycle.ts';
import type { EndedWait, WaitingRequest } from './waiting-request.ts';

/** Statements name their parameters so. */
export interface WaitRow {
  readonly id: string;
  readonly gateway: string;
  readonly server: string;
  readonly certificate: string;
  readonly correlator: string;
  readonly requestAddress: string;
  readonly device: string;
  readonly mtcUser: string;
  readonly rule: string;
  readonly policyVersion: string;
  readonly remote: string;
  readonly family: string;
  readonly protocol: string;
  readonly devicePort: number;
  /** JSON: the identifier used, application server and port, and duration. */
  readonly ask: string;
  readonly waitSeconds: number;
  readonly requestedAtMs: number;
  readonly waitsUntilMs: number;
  readonly bootId: string;
  readonly waitsUntilNs: bigint;
}

/** The end of one. */
export interface WaitEndRow {
  readonly id: string;
  readonly endCause: string;
  readonly endedAtMs: number;
}

/** As it is read: 64 bits come as text. */
export type KeptWaitRow = Omit<WaitRow, 'waitsUntilNs'> & {
  readonly waitsUntilNs: string;
  readonly state: string;
  readonly cause: string;
  readonly endedAtMs: number | null;
};

type AskJson = readonly [GrantRequest['device'], string | null, number | null, number];

export function waitRow(request: WaitingRequest): WaitRow {
  const { ask, requestAddress, remote, state: _, ...row } = request;
  const { address: named, port } = ask.applicationServer ?? {};
  const json: AskJson = [ask.device, textOf(named) ?? null, port ?? null, ask.durationSeconds];
  return {
    ...row,
    requestAddress: requestAddress.text,
    remote: textOf(remote) as string,
    ask: JSON.stringify(json),
  };
}

export function waitEndRow({ id, endCause, endedAtMs }: EndedWait): WaitEndRow {
  return { id, endCause, endedAtMs };
}

export function waitOf(row: KeptWaitRow): WaitingRequest {
  const { ask: json, cause, endedAtMs, ...plain } = row;
  const [device, named, port, durationSeconds] = JSON.parse(json) as AskJson;
  const family = row.family as WaitingRequest['family'];
  const protocol = row.protocol as WaitingRequest['protocol'];
  const waiting = {
    ...plain,
    id: row.id as GrantId,
    device: row.device as ExternalId,
    requestAddress: address(row.requestAddress),
    remote: remoteOf(row.remote),
    ask: {
      device,
      ...(named !== null && { applicationServer: { address: remoteOf(named), ...(port !== null && { port }) } }),
      protocol,
      devicePort: row.devicePort,
      durationSeconds,
      ipFamily: family,
    },
    waitsUntilNs: BigInt(row.waitsUntilNs),
  } as WaitingRequest;
  return endedAtMs === null ? waiting : { ...waiting, endCause: cause as WaitEndCause, endedAtMs };
}

function remoteOf(text: string): WaitingRequest['remote'] {
  return text === 'all' ? text : address(text);
}

function textOf(remote: WaitingRequest['remote'] | undefined): string | undefined {
  return remote === undefined || remote === 'all' ? remote : remote.text;
}
