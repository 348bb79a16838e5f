/** Who had a public endpoint: what is asked of the NAT record, and what is handed to it of grants. */
import type { NatUseCases } from '../api/nat-routes.ts';
import { PROTOCOL_NUMBERS, PROTOCOLS } from '../core/words.ts';
import type { Grants } from '../grants/grants.ts';
import type { GrantRecord } from '../grants/record.ts';
import { bytesOf, type Mapping } from '../nat/mapping.ts';
import type { NatRecord } from '../nat/nat-record.ts';
import type { RecordReader } from '../nat/record-store.ts';
import { answerWho, type WhoGround } from '../nat/who.ts';

export interface NatParts {
  readonly pools: WhoGround['pools'];
  readonly own: WhoGround['own'];
  readonly holder: WhoGround['holder'];
  readonly grants: Pick<Grants, 'live'>;
  readonly record: Pick<NatRecord, 'reading'>;
  readonly reader: RecordReader;
  readonly nowMs: () => number;
}

export function natUseCases({ pools, own, holder, grants, record, reader, nowMs }: NatParts): NatUseCases {
  return {
    whoHad: (question) =>
      answerWho(question, {
        ...{ pools, own, holder, nowMs: nowMs(), recording: record.reading().recording },
        find: ({ address, port, fromMs, toMs }) => reader.find(bytesOf(address), port, fromMs, toMs),
        live: ({ address, port }) =>
          PROTOCOLS.flatMap((protocol) => {
            const grant = grants.live.atExternal(protocol, { address, port });
            return grant ? mappingOf(grant) : [];
          }),
      }),
  };
}

/** Whether it was ever open: one whose record was written and that was not opened ended as it began. */
export function wasOpen({ startedAtMs, expiresAtMs }: GrantRecord): boolean {
  return expiresAtMs > startedAtMs;
}

export function mappingOf(grant: GrantRecord): Mapping {
  const { external, inner } = grant;
  return {
    protocol: PROTOCOL_NUMBERS[grant.protocol],
    external: bytesOf(external.address),
    port: external.port,
    realm: inner.realm,
    inner: bytesOf(inner.address),
    innerPort: grant.devicePort,
    device: grant.device,
    grant: grant.id,
    server: grant.server,
    beganMs: grant.startedAtMs,
    beganFromMs: null,
    // It carried nothing behind its end, however late that was seen and written.
    endedMs: grant.endedAtMs === undefined ? null : Math.min(grant.endedAtMs, grant.expiresAtMs),
    endedFromMs: null,
  };
}
