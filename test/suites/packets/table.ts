/**
 * The columns of the packet tables beside this file, and the grants that
 * stand while they are gone through.
 */
import type { DenialReason } from '../../../agent/core/reasons.ts';
import { mapping, SECOND_REALM } from '../fixture.ts';

export const SERVER = '198.51.100.10';
export const SERVER6 = '2001:db8:51::10';
export const ROGUE = '192.0.2.66';
export const ROGUE6 = '2001:db8:66::66';
export const DEVICE = '10.20.0.2';
export const DEVICE6 = 'fd00:20::2';

/** The grants that stand, each for one case. */
export const GRANTS = {
  narrow: mapping({ external: '203.0.113.1:40000', device: `${DEVICE}:5683`, remote: SERVER, number: 1 }),
  wide: mapping({ external: '203.0.113.33:40063', device: `${DEVICE}:22`, protocol: 'tcp', number: 2 }),
  narrow6: mapping({ external: '[2001:db8:a::1]:40000', device: `[${DEVICE6}]:5683`, remote: SERVER6, number: 3 }),
  port6: mapping({
    external: '[2001:db8:a:0:ffff:ffff:ffff:ffff]:40001',
    device: `[${DEVICE6}]:22`,
    protocol: 'tcp',
    remote: SERVER6,
    remotePort: 5000,
    number: 4,
    slot: 1,
  }),
  second: mapping({ external: '203.0.113.2:40000', device: '10.30.0.2:5683', realm: SECOND_REALM, number: 5 }),
};
/** Ended a moment ago, and long ago. */
export const ENDED = {
  udp: mapping({ external: '203.0.113.3:40000', device: '10.20.0.3:5683', remote: SERVER, number: 6 }),
  tcp: mapping({ external: '203.0.113.3:40000', device: '10.20.0.3:22', protocol: 'tcp', number: 7 }),
};
export const LONG_ENDED = mapping({ external: '203.0.113.3:40001', device: '10.20.0.4:5683', number: 8 });

export type Outcome = 'pass' | DenialReason | { readonly leaves: Uint8Array };
export type Row = readonly [what: string, packet: Uint8Array, outcome: Outcome];

export const leaves = (packet: Uint8Array): Outcome => ({ leaves: packet });
export const less = { hops: 63 };
