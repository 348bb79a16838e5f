/** Grants, and requests that wait, as each side may see them: a server, and the operator. */
import type { OperatorGrant, OperatorGrantDetail, OperatorWait, OperatorWaitDetail } from '../api/operator-rows.ts';
import type { Grant, Wait } from '../api/routes.ts';
import type { Identities } from '../core/identities.ts';
import type { Ground } from '../grants/ground.ts';
import { END_CAUSES, waitEndText } from '../grants/lifecycle.ts';
import type { GrantRecord } from '../grants/record.ts';
import type { WaitingRequest } from '../grants/waiting-request.ts';

/** A device is named to its server as the server named it, or not at all. */
export function serverView(record: GrantRecord | WaitingRequest, identities: Identities): Grant | Wait {
  const { device, ...view } = 'waitsUntilMs' in record ? waitView(record) : grantView(record);
  const named = identities.shown(device);
  return { ...(named && { device: named }), ...view } as Grant | Wait;
}

/** As it is kept. */
type Named = Required<Pick<Grant, 'device'>>;

export const STATUS = { live: 'LIVE', held: 'HELD', ended: 'ENDED' } as const;

function grantView(record: GrantRecord): Grant & Named {
  return {
    ...viewOfBoth(record),
    device: record.reference,
    externalEndpoint: record.external,
    applicationServer: { address: record.remote, ...(record.remotePort > 0 && { port: record.remotePort }) },
    status: STATUS[record.state],
    startedAtMs: record.startedAtMs,
    expiresAtMs: record.expiresAtMs,
    limits: record.limits,
  };
}

function waitView(request: WaitingRequest): Wait & Named {
  const { ask, remote, family, requestedAtMs, waitsUntilMs } = request;
  const port = ask.applicationServer?.port;
  return {
    ...viewOfBoth(request),
    device: ask.device,
    applicationServer: { address: remote, ...(port !== undefined && { port }) },
    status: request.state === 'waiting' ? 'WAITING' : 'ENDED',
    ...{ family, requestedAtMs, waitsUntilMs },
  };
}

function viewOfBoth({ id, protocol, devicePort, endedAtMs, endCause }: GrantRecord | WaitingRequest) {
  return {
    ...{ id, protocol, devicePort },
    ...(endedAtMs !== undefined && { endedAtMs }),
    ...(endCause !== undefined && { endCause }),
  };
}

export function operatorView(record: GrantRecord | WaitingRequest): OperatorGrant | OperatorWait {
  const { server, device: externalId, rule, correlator } = record;
  const owned = { server, externalId, rule, correlator };
  return 'waitsUntilMs' in record
    ? { ...waitView(record), ...owned }
    : { ...grantView(record), ...owned, inner: record.inner };
}

export function operatorDetail(record: GrantRecord, { dataplane, clock }: Ground): OperatorGrantDetail {
  const { gateway, mtcUser, policyVersion, family, grantedSeconds, index, number, endCause } = record;
  const held = dataplane.entry(index)?.mapping.number === number;
  const remainingNs = record.state !== 'ended' ? record.expiresAtNs - clock.boottimeNs() : 0n;
  return {
    ...(operatorView(record) as OperatorGrant),
    ...{ gateway, mtcUser, policyVersion, family, grantedSeconds, entry: index, number },
    remainingSeconds: Math.max(0, Number(remainingNs) / 1e9),
    ...(endCause && { endText: END_CAUSES[endCause] }),
    ...(held && { carried: dataplane.carried(index) }),
  };
}

export function operatorWaitDetail(request: WaitingRequest, { clock }: Ground): OperatorWaitDetail {
  const { gateway, mtcUser, policyVersion, family, ask, endCause } = request;
  const remainingNs = request.state === 'waiting' ? request.waitsUntilNs - clock.boottimeNs() : 0n;
  return {
    ...(operatorView(request) as OperatorWait),
    ...{ gateway, mtcUser, policyVersion, family, askedSeconds: ask.durationSeconds },
    remainingSeconds: Math.max(0, Number(remainingNs) / 1e9),
    ...(endCause && { endText: waitEndText(endCause) }),
  };
}
