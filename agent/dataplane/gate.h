/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the gate (gate.bpf.c) and the agent (layout.ts) both know: the values
 * in the maps, byte by byte. A test holds every size and offset here against
 * layout.ts. Change anything that lies in a pinned map, and GATE_SCHEMA goes
 * up by one: the agent then starts on fresh maps.
 *
 * Addresses are 16 bytes in network order, IPv4 in mapped form. Ports in
 * maps are in network order, all other numbers in host order.
 */
#ifndef MTGATE_GATE_H
#define MTGATE_GATE_H

#include <linux/types.h>

#define GATE_SCHEMA 5

#define GATE_POOLS_MAX 8     /* prefixes of one family in the grants pool */
#define GATE_SERVICES_MAX 16 /* what devices may reach on the gateway */

/* So many nanoseconds' samples may be taken at once. */
#define SAMPLE_BURST_NS 100000000ULL
#define SAMPLE_SHARE 8 /* of so many parts one source has one */
#define SAMPLE_SLOTS_BITS 10 /* sources share slots by their hash */

/* The mark of a sampled denial: this base with the reason in the low bits. */
#define GATE_MARK 0xd0000000u
#define GATE_MARK_MASK 0xf0000000u

/* The mark of what leaves by a device's own address, as the base, or a grant,
 * has let it: the gate takes it away as it lets the packet out. */
#define GATE_ANSWER_MARK 0xa0000000u

/* The mark of what the gate itself answers, on its way out. */
#define GATE_OWN_MARK 0xa0000001u

/* The mark of a granted packet, already translated, that the stack is to cut
 * into fragments: this base with the interface it is for in the low bits. */
#define GATE_FRAGMENT_MARK 0xb0000000u

/* The mark of what goes in to a realm whose addresses the outside knows: the
 * base, or the gate, has let it in. */
#define GATE_LET_IN_MARK 0xc0000000u

#define GATE_ADMISSIONS_MAX 16 /* of one source prefix, those of wider ones included */

/* Numbers as in DENIALS of core/reasons.ts. */
enum reason {
	REASON_NONE = 0,
	REASON_NO_GRANT = 1,
	REASON_GRANT_ENDED = 2,
	REASON_WRONG_SOURCE = 3,
	REASON_AGENT_LOST = 4,
	REASON_MALFORMED = 5,
	REASON_HEADER_OPTIONS = 6,
	REASON_HOP_LIMIT = 7,
	REASON_FRAGMENT = 8,
	REASON_PROTOCOL_NOT_CARRIED = 9,
	REASON_SPOOFED_SOURCE = 10,
	REASON_REALM_DESTINATION = 11,
	REASON_INNER_LEAK = 12,
	REASON_GATEWAY_SERVICE = 13,
	REASON_DEVICE_TO_DEVICE = 14,
	REASON_WRONG_REMOTE = 15,
	REASON_TOMBSTONE = 16,
	REASON_ADDRESS_CHANGING_HANDS = 17,
	REASON_PACKET_RATE_EXCEEDED = 18,
	REASON_BYTE_QUOTA_EXCEEDED = 19,
	REASON_ADDRESS_UNBOUND = 20,
	REASON_ERROR_NOT_CARRIED = 21,
	REASON_ICMP_RATE_EXCEEDED = 22,
	REASON_PACKET_TOO_BIG = 23,
	REASON_MAX = 24,
};

/* Slots of the `counters` map (per CPU, each a struct gate_count). The
 * denials of reason R count in slot R; the rest follow. */
enum counter {
	COUNTER_GRANTED_IN = REASON_MAX,  /* carried from outside to a device */
	COUNTER_GRANTED_OUT,              /* carried from a device to outside */
	COUNTER_PASSED,                   /* not the gate's business: to the base */
	COUNTER_SAMPLED,                  /* denials handed on with a mark */
	COUNTER_ERRORS_CARRIED,           /* ICMP errors about granted flows, either way */
	COUNTER_ECHOES_ANSWERED,          /* by the gate, in the name of an external address */
	COUNTER_AT_XDP,                   /* of those carried or denied: finished at XDP */
	COUNTER_MAX,
};

struct gate_count {
	__u64 packets;
	__u64 bytes;
};

/* 16 bytes of address that compare as two words. */
struct gate_address {
	__u64 high;
	__u64 low;
};

#define ENTRY_ANY_REMOTE 1   /* any address of the server's class, not one */
#define ENTRY_UNTRANSLATED 2 /* the external endpoint is the device's own */

/* `limits` of an entry, both in one word, so that a change of both is one
 * store: packets a second in the low bits (0: any number), bytes of both
 * directions above (0: any number). */
#define LIMIT_BYTES_SHIFT 24

#define GATE_USED_UP_MAX 4096 /* grants whose quota is used up, and the agent has not heard */

/*
 * One mapping, in the mmapable array `entries`. The agent fills it while it
 * is dead and makes it alive by `end` alone; only the agent writes `end` and,
 * on a live one, `limits` (one aligned store each); only the gate writes the
 * counters, `used_up` and `rate_full`. What a quota has left follows from the
 * counters.
 * Index: IPv4 (slot * 2 + (udp ? 1 : 0)) * port_count + (port - port_low),
 * slot = place of the address in the pool; behind these, indices that are
 * found through the table `endpoints`.
 */
struct gate_entry {
	__u64 end;                     /* 0   CLOCK_MONOTONIC ns; 0: never opened */
	__u64 number;                  /* 8   the grant's number, never used again */
	struct gate_address device;    /* 16 */
	struct gate_address remote;    /* 32  zero with ENTRY_ANY_REMOTE */
	struct gate_address external;  /* 48 */
	__be16 device_port;            /* 64 */
	__be16 external_port;          /* 66 */
	__be16 remote_port;            /* 68  0: any */
	__u16 realm;                   /* 70 */
	__u32 class_id;                /* 72  the server's class */
	__u8 protocol;                 /* 76  IPPROTO_TCP or IPPROTO_UDP */
	__u8 flags;                    /* 77 */
	__u8 used_up;                  /* 78  the gate's: a packet was refused for the quota, and the agent is told */
	__u8 pad;                      /* 79 */
	struct gate_count in;          /* 80  outside to device */
	struct gate_count out;         /* 96  device to outside */
	__u64 limits;                  /* 112 LIMIT_BYTES_SHIFT; 0: none */
	__u64 rate_full;               /* 120 the gate's: when the bucket is full again, in sixteenths of ns */
};

/* Key in the table `endpoints`: an external endpoint of IPv6. */
struct gate_endpoint {
	struct gate_address address;
	__be16 port;
	__u8 protocol;
	__u8 pad[5];
};

/* Key in the table `answers`: what a device's packet shows. */
struct gate_answer {
	struct gate_address device;
	__u32 class_id; /* of the remote */
	__u16 realm;
	__be16 port; /* the device's */
	__u8 protocol;
	__u8 pad[7];
};

#define BUCKET_SLOTS 8

/*
 * The tables `endpoints` and `answers`: from a key to an index of `entries`, in
 * two or three cache lines whatever they hold. A key has two buckets, each a
 * line; a slot is the key's tag, in the upper half, and an index, or 0. Whose
 * the index is the entry tells by itself: no slot that is left over, or whose
 * tag another key has too, leads anywhere. Only the agent writes slots, one
 * aligned store each (entry-table.ts, which reckons buckets and tags likewise).
 */
struct gate_bucket {
	__u64 slots[BUCKET_SLOTS];
};

/* What stands in `used_up`. */
struct gate_target {
	__u64 number;
	__u32 index;
	__u32 pad;
};

/* Key of the tries `classes` (-> __u32 class id) and `owned` (-> __u32, enum
 * owner in OWNER_BITS): bits of the mapped form that count, then the address. */
struct gate_prefix {
	__u32 length;
	__u8 address[16];
};

enum owner {
	OWNER_REALM = 1,   /* a realm prefix: devices */
	OWNER_GATEWAY = 2, /* an address of the host on an inside interface */
	OWNER_HOST = 3,    /* any other address of the host */
	OWNER_SEEN = 4,    /* a realm prefix whose addresses the outside knows */
};

#define OWNER_BITS 8 /* above them, of a realm prefix: which realm */

/* What may pass to the inside without a grant. */
struct gate_admission {
	struct gate_address destination;
	struct gate_address mask; /* its first word 0: no such admission */
	__u8 types[32];           /* ICMP and ICMPv6: a bit for each type */
	__u16 port_low;           /* TCP and UDP, host order, both included */
	__u16 port_high;
	__u8 protocol;
	__u8 any;                 /* whatever the protocol, ports and types */
	__u8 pad[2];
};

/* Value of the trie `admissions` (key: struct gate_prefix, of the source). */
struct gate_admissions {
	struct gate_admission list[GATE_ADMISSIONS_MAX];
};

/* Value of `inside` (key: __u32 ifindex): which realm an interface is. */
struct gate_inside {
	__u16 realm;
	__u16 seen; /* the outside knows its addresses */
};

#define NEXT_HOP4 1
#define NEXT_HOP6 2
#define ROUTE_TAKES_FRAMES 4 /* the interface takes what XDP redirects to it */
#define ROUTE_BY_MORE4 8     /* rules choose routes by source, TOS or protocol, too */
#define ROUTE_BY_MORE6 16

/* Where carried packets go: element of `realms` (index: realm id; ifindex 0:
 * there is none) for the devices, and in struct gate_config for the outside. */
struct gate_route {
	__u32 ifindex;
	__u32 next_hops; /* NEXT_HOP4, NEXT_HOP6: which of the two are given; ROUTE_… */
	__u32 next_hop4; /* network order, as next_hop6 */
	__u32 next_hop6[4];
	__u32 mtu;       /* of the interface; 0: not known */
};

#define FRAGMENTS_MAX 8192 /* datagrams in pieces at one time; of more the longest idle are forgotten */
#define FROM_OUTSIDE 0x10000 /* in the place of a realm's number */

/* Key of `fragments`: a datagram in pieces, as its pieces show it. */
struct gate_datagram {
	struct gate_address source;
	struct gate_address destination;
	__u32 identification; /* as it stands in the packet */
	__u32 realm;          /* or FROM_OUTSIDE */
	__u8 protocol;
	__u8 pad[7];
};

/* Value of `fragments`: what its first piece said. Only the gate's. */
struct gate_pieces {
	__u64 number; /* of the grant */
	__u64 since;  /* CLOCK_MONOTONIC ns, coarse */
	__u32 index;
	__u32 next;   /* where the next piece must begin; more than any: none may follow */
	__be16 source_port;
	__be16 destination_port;
	__u32 pad;
};

#define ICMP_BUCKETS 4096 /* grants share them by their index, others by their source */

/* Key of the hash `bound` and the trie `changing` (-> __u8 1): an inner address,
 * or a prefix whose addresses have one holder. `length`: the bits that count,
 * those of the realm and then those of the mapped form; the others are 0. */
struct gate_inner {
	__u32 length;
	__u32 realm;
	__u8 address[16];
};

#define GATE_LENGTHS_MAX 8 /* bound prefixes of a family have no more different lengths */

/* The one element of the mmapable array `state`; the agent writes all of it by
 * atomic stores but sample_next, which is the gate's. */
struct gate_state {
	__u64 heartbeat;           /* 0  when the agent was last heard */
	__u64 orphan_grace;        /* 8  ns; past heartbeat + this every grant is refused */
	__u64 tombstone;           /* 16 ns after an end in which UDP leftovers are dropped */
	__u64 sample_interval;     /* 24 ns between two sampled denials, on the average; 0: none */
	__u64 changing;            /* 32 how many prefixes are in `changing` */
	__u64 sample_next;         /* 40 the gate's: when the next may be sampled (GCRA) */
	__u64 lengths_ipv4;        /* 48 of the prefixes in `bound`: a byte for each, bits of the mapped form; 0: no more */
	__u64 lengths_ipv6;        /* 56 */
	__u64 classes_changed;     /* 64 how often `classes` was: what is remembered from before is void */
	__u64 seed;                /* 72 of the tables' hashes; secret, and the same as long as the tables are */
};

struct gate_pool4 {
	__u32 address; /* network order */
	__u32 mask;    /* network order; 0: no such pool */
	__u32 slot;    /* slot of its first address */
};

struct gate_pool6 {
	struct gate_address address;
	struct gate_address mask; /* both words 0: no such pool */
};

struct gate_service {
	__u8 protocol; /* 0: no such service */
	__u8 pad;
	__be16 port; /* ICMP and ICMPv6: 0 */
};

/* What the gate makes alike in the headers of carried packets (`normalise`). */
#define NORMALISE_IDENTIFICATION 1 /* outward, IPv4 and IPv6 fragments */
#define NORMALISE_FLOW_LABEL 2     /* outward */
#define NORMALISE_TRAFFIC_CLASS 4  /* but for ECN */
#define NORMALISE_TIMESTAMPS 8     /* TCP's, taken out of SYNs */
#define NORMALISE_MSS 16           /* of SYNs, to what the links take */

/* All that is fixed while the gate is loaded: its only .rodata. */
struct gate_config {
	struct gate_route outside;
	__u64 identification_key; /* secret: by it identifications are changed */
	__u32 port_low; /* of the grants pool, host order */
	__u32 port_count;
	__u32 only_bound; /* 0: whoever is not in `bound` may speak, too */
	__u32 normalise;
	__u32 hop_limit;  /* of carried packets; 0: one less than it was */
	__u32 seen_realms; /* whether there are any */
	__u32 endpoints_mask; /* buckets of the tables, which are a power of two, less one */
	__u32 answers_mask;
	struct gate_pool4 pools4[GATE_POOLS_MAX];
	struct gate_pool6 pools6[GATE_POOLS_MAX];
	struct gate_service services[GATE_SERVICES_MAX];
};

#endif
