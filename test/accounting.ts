/** What a NAS may tell of a session, for tests that tell some of it. */
import type { SessionEvent } from '../agent/directory/accounting.ts';

export const NOTHING_TOLD = {
  subscriber: { imsi: undefined, msisdn: undefined, externalId: undefined },
  apn: undefined,
  ipv4: undefined,
  ipv6Prefix: undefined,
  interfaceId: undefined,
  ipv6Address: undefined,
  delegatedPrefix: undefined,
} as const satisfies Partial<SessionEvent>;
