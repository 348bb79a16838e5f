/**
 * A refused request as it is kept: what the operator's log line has, so that
 * `mtgate why` answers after a restart too; and the same as a row of the list.
 */
import { type Family, parseAddress } from '../core/net.ts';
import type { Refusal, RefusalFacts } from '../core/refusals.ts';
import {
  type Asker,
  type ExternalId,
  type GrantRequest,
  type MtcUserName,
  type Protocol,
  referenceOf,
  type ServerName,
} from '../core/words.ts';
import type { DenialFacts } from './denials.ts';

export interface KeptRefusal {
  readonly instance: string;
  readonly atMs: number;
  readonly reason: Refusal['reason'];
  readonly step: string;
  readonly why: string;
  readonly rule?: string;
  /** The MTC server, if the asker was known by then. */
  readonly server?: string;
  /** The device as it was named. */
  readonly device?: string;
  /** Whose device that is, and its external identifier; where it is somebody's. */
  readonly mtcUser?: MtcUserName;
  readonly externalId?: ExternalId;
  /** The certificate that was shown: its SHA-256, in hex. */
  readonly certificate?: string;
  /** The address the request came from, and the port. */
  readonly source: string;
  readonly sourcePort?: number;
  readonly target: string;
  readonly correlator?: string;
  /** What else a request for a grant asked: with it, it can be put to another policy. */
  readonly durationSeconds?: number;
  readonly applicationServer?: string;
  readonly ipFamily?: string;
  /** The version of the policy that was in force, and the steps that were taken; of a request for a grant. */
  readonly policy?: string;
  readonly steps?: readonly string[];
}

/** Whose device was named. */
export interface NamedDevice {
  readonly mtcUser: MtcUserName;
  readonly externalId: ExternalId;
}

export interface RefusalFilter {
  readonly server?: string | undefined;
  readonly device?: string | undefined;
  readonly reason?: string | undefined;
}

/** Texts come from the asker: none is longer than this. */
const TEXT_MOST = 500;

export function keptRefusal(
  { instance, reason, step, why, rule }: Refusal,
  facts: RefusalFacts,
  atMs: number,
  named?: NamedDevice,
): KeptRefusal {
  const text = (name: string) => {
    const value = facts[name];
    return typeof value === 'string' && value !== '' ? value.slice(0, TEXT_MOST) : undefined;
  };
  const asked = text('to') ?? [text('method'), text('path')].filter(Boolean).join(' ');
  return {
    instance,
    atMs,
    reason,
    step,
    why: why.slice(0, TEXT_MOST),
    source: text('from') ?? text('remote') ?? 'unknown',
    target: asked || 'unknown',
    ...(rule !== undefined && { rule }),
    ...optional('server', text('server')),
    ...optional('device', text('device')),
    ...named,
    ...optional('certificate', text('certificate')),
    ...(typeof facts['fromPort'] === 'number' && { sourcePort: facts['fromPort'] }),
    ...optional('correlator', text('correlator')),
    ...(typeof facts['durationSeconds'] === 'number' && { durationSeconds: facts['durationSeconds'] }),
    ...optional('applicationServer', text('applicationServer')),
    ...optional('ipFamily', text('ipFamily')),
    ...optional('policy', text('policy')),
    ...(Array.isArray(facts['steps']) && { steps: facts['steps'].map((step) => String(step).slice(0, TEXT_MOST)) }),
  };
}

/** The request for a grant that was refused; undefined where it was another, or not all of it was kept. */
export function requestOf({
  server,
  device,
  target,
  source,
  durationSeconds,
  applicationServer,
  ipFamily,
}: KeptRefusal): { readonly who: Pick<Asker, 'name' | 'requestAddress'>; readonly ask: GrantRequest } | undefined {
  const [, protocol, port] = /^(tcp|udp)\/(\d+)$/.exec(target) ?? [];
  const requestAddress = parseAddress(source);
  const remote = applicationServer === 'all' ? ('all' as const) : parseAddress(applicationServer ?? '');
  if (!server || !device || !protocol || durationSeconds === undefined || !requestAddress) return undefined;
  const ask: GrantRequest = {
    device: referenceOf(device),
    protocol: protocol as Protocol,
    devicePort: Number(port),
    durationSeconds,
    ...(remote && { applicationServer: { address: remote } }),
    ...(ipFamily !== undefined && { ipFamily: ipFamily as Family }),
  };
  return { who: { name: server as ServerName, requestAddress }, ask };
}

export function refusalDenial(kept: KeptRefusal): DenialFacts {
  const { reason, source, target, server, device, mtcUser, externalId, certificate, sourcePort } = kept;
  return {
    ...{ kind: 'request', reason, source, target },
    ...optional('server', server),
    ...optional('device', device),
    ...(mtcUser && { mtcUser }),
    ...(externalId && { externalId }),
    ...optional('certificate', certificate),
    ...(sourcePort !== undefined && { sourcePort }),
  };
}

export function matchesRefusal({ server, device, reason }: RefusalFilter, refusal: KeptRefusal): boolean {
  return (
    (server === undefined || refusal.server === server) &&
    (device === undefined || refusal.device === device) &&
    (reason === undefined || refusal.reason === reason)
  );
}

function optional<Name extends string>(name: Name, value: string | undefined): { readonly [key in Name]?: string } {
  return value === undefined ? {} : ({ [name]: value } as { readonly [key in Name]: string });
}
