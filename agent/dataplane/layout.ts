/**
 * gate.h for TypeScript: its numbers, and where every field of its structs
 * lies. A test holds all of it against the header, by the C compiler. The
 * values themselves are made and read in map-values.ts.
 */
import { ADMISSIONS_MAX } from '../core/admissions.ts';
import { ANSWER_MARK, DENIAL_MARK, FRAGMENT_MARK, LET_IN_MARK, OWN_MARK } from '../core/reasons.ts';

export const GATE_SCHEMA = 5;
export const GATE_POOLS_MAX = 8;
export const GATE_SERVICES_MAX = 16;
export const GATE_MARK = DENIAL_MARK;
export const GATE_ANSWER_MARK = ANSWER_MARK;
export const GATE_OWN_MARK = OWN_MARK;
export const GATE_FRAGMENT_MARK = FRAGMENT_MARK;
export const GATE_LET_IN_MARK = LET_IN_MARK;
export const ENTRY_ANY_REMOTE = 1;
export const ENTRY_UNTRANSLATED = 2;
export const LIMIT_BYTES_SHIFT = 24;
export const GATE_USED_UP_MAX = 4096;
export const GATE_LENGTHS_MAX = 8;
export const BUCKET_SLOTS = 8;
export const NEXT_HOP4 = 1;
export const NEXT_HOP6 = 2;
export const ROUTE_TAKES_FRAMES = 4;
export const ROUTE_BY_MORE4 = 8;
export const ROUTE_BY_MORE6 = 16;

/** enum owner. */
export const OWNERS = { realm: 1, gateway: 2, host: 3, seen: 4 } as const;
export const OWNER_BITS = 8;
/** enum counter; below these, the denials by their numbers. */
export const COUNTERS = {
  grantedIn: 24,
  grantedOut: 25,
  passed: 26,
  sampled: 27,
  errorsCarried: 28,
  echoesAnswered: 29,
  atXdp: 30,
} as const;
export const COUNTER_MAX = 31;

/** What of carried packets is made alike. */
export const NORMALISE = { identification: 1, flowLabel: 2, trafficClass: 4, timestamps: 8, mss: 16 } as const;

/** Offsets of the fields, and the size, of every struct of gate.h. */
export const LAYOUT = {
  gate_count: { size: 16, fields: { packets: 0, bytes: 8 } },
  gate_address: { size: 16, fields: { high: 0, low: 8 } },
  gate_entry: {
    size: 128,
    fields: {
      end: 0,
      number: 8,
      device: 16,
      remote: 32,
      external: 48,
      device_port: 64,
      external_port: 66,
      remote_port: 68,
      realm: 70,
      class_id: 72,
      protocol: 76,
      flags: 77,
      used_up: 78,
      pad: 79,
      in: 80,
      out: 96,
      limits: 112,
      rate_full: 120,
    },
  },
  gate_endpoint: { size: 24, fields: { address: 0, port: 16, protocol: 18, pad: 19 } },
  gate_answer: { size: 32, fields: { device: 0, class_id: 16, realm: 20, port: 22, protocol: 24, pad: 25 } },
  gate_bucket: { size: 64, fields: { slots: 0 } },
  gate_target: { size: 16, fields: { number: 0, index: 8, pad: 12 } },
  gate_prefix: { size: 20, fields: { length: 0, address: 4 } },
  gate_admission: {
    size: 72,
    fields: { destination: 0, mask: 16, types: 32, port_low: 64, port_high: 66, protocol: 68, any: 69, pad: 70 },
  },
  gate_admissions: { size: 72 * ADMISSIONS_MAX, fields: { list: 0 } },
  gate_inside: { size: 4, fields: { realm: 0, seen: 2 } },
  gate_route: { size: 32, fields: { ifindex: 0, next_hops: 4, next_hop4: 8, next_hop6: 12, mtu: 28 } },
  gate_datagram: {
    size: 48,
    fields: { source: 0, destination: 16, identification: 32, realm: 36, protocol: 40, pad: 41 },
  },
  gate_pieces: {
    size: 32,
    fields: { number: 0, since: 8, index: 16, next: 20, source_port: 24, destination_port: 26, pad: 28 },
  },
  gate_inner: { size: 24, fields: { length: 0, realm: 4, address: 8 } },
  gate_state: {
    size: 80,
    fields: {
      heartbeat: 0,
      orphan_grace: 8,
      tombstone: 16,
      sample_interval: 24,
      changing: 32,
      sample_next: 40,
      lengths_ipv4: 48,
      lengths_ipv6: 56,
      classes_changed: 64,
      seed: 72,
    },
  },
  gate_pool4: { size: 12, fields: { address: 0, mask: 4, slot: 8 } },
  gate_pool6: { size: 32, fields: { address: 0, mask: 16 } },
  gate_service: { size: 4, fields: { protocol: 0, pad: 1, port: 2 } },
  gate_config: {
    size: 488,
    fields: {
      outside: 0,
      identification_key: 32,
      port_low: 40,
      port_count: 44,
      only_bound: 48,
      normalise: 52,
      hop_limit: 56,
      seen_realms: 60,
      endpoints_mask: 64,
      answers_mask: 68,
      pools4: 72,
      pools6: 168,
      services: 424,
    },
  },
} as const;

export const ENTRY = LAYOUT.gate_entry.fields;
