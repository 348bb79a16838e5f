import { address } from '../agent/core/net.ts';
import type { GrantRecord } from '../agent/grants/record.ts';

/** A live grant's record; what matters to a test is named by it. */
export function grantRecord(changes: Partial<GrantRecord> = {}): GrantRecord {
  return {
    id: 'A',
    number: 1,
    gateway: 'gw-1',
    server: 'head-end',
    certificate: 'ca:1',
    mtcUser: 'acme',
    device: 'm1@meters.example',
    reference: { networkAccessIdentifier: 'm1@meters.example' },
    rule: 'meters',
    policyVersion: 'v1',
    family: 'ipv4',
    protocol: 'udp',
    inner: { realm: 'iot', address: address('10.20.0.2') },
    devicePort: 5683,
    remote: address('198.51.100.10'),
    remotePort: 0,
    external: { address: address('203.0.113.1'), port: 20_000 },
    index: 3,
    grantedSeconds: 600,
    startedAtMs: 1000,
    expiresAtMs: 601_000,
    bootId: 'boot-1',
    expiresAtNs: 600_000_000_000n,
    state: 'live',
    limits: {},
    correlator: 'c-1',
    ...changes,
  } as GrantRecord;
}
