/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the gate knows: its configuration, its maps, and the look-ups in them.
 *
 * Who writes what: the agent everything but counters, what limits have used,
 * `used_up`, `fragments`, `icmp_buckets`, `sample_parts`, `seen_classes`, `hops` and state.sample_next; the gate only
 * those. Sizes that follow from the grants pool (`entries`, `answers`,
 * `endpoints`) are set by the loader before the maps are made.
 */
#ifndef MTGATE_MAPS_H
#define MTGATE_MAPS_H

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "gate.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the agent reads these maps in place, as little endian"
#endif

/* Fixed at load: the verifier sees constants, and cuts pools that are not there. */
const volatile struct gate_config config = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gate_entry);
} entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gate_state);
} state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gate_bucket);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gate_bucket);
} answers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 18);
	__type(key, struct gate_prefix);
	__type(value, __u32); /* class id */
} classes SEC(".maps");

#define SEEN_CLASSES_BITS 8

/* Element of `seen_classes`, of each CPU: the class of an address, as it was. */
struct gate_seen_class {
	struct gate_address address;
	__u64 changed; /* state.classes_changed of then; 0: nothing is remembered */
	__u32 class_id;
	__u32 pad;
};

/* What the trie said of the addresses that packets came from of late. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << SEEN_CLASSES_BITS);
	__type(key, __u32);
	__type(value, struct gate_seen_class);
} seen_classes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 12);
	__type(key, struct gate_prefix);
	__type(value, __u32); /* enum owner */
} owned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, struct gate_prefix);
	__type(value, struct gate_admissions);
} admissions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u32); /* ifindex */
	__type(value, struct gate_inside);
} inside SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 16);
	__type(key, __u32); /* realm id */
	__type(value, struct gate_route);
} realms SEC(".maps");

/* Who holds what: room for two prefixes of a million devices, taken as they are
 * bound. No trie: of a million that takes twenty steps through cold memory. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 21);
	__type(key, struct gate_inner);
	__type(value, __u8);
} bound SEC(".maps");

/* What is being given from one holder to another: a first devices file, all at once. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 22);
	__type(key, struct gate_inner);
	__type(value, __u8);
} changing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_MAX);
	__type(key, __u32);
	__type(value, struct gate_count);
} counters SEC(".maps");

/* Grants whose byte quota is used up, from the gate to the agent, which takes
 * them out. Of one that found no room the next packet tries again. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, GATE_USED_UP_MAX);
	__type(value, struct gate_target);
} used_up SEC(".maps");

/* Datagrams in pieces (fragments.h). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENTS_MAX);
	__type(key, struct gate_datagram);
	__type(value, struct gate_pieces);
} fragments SEC(".maps");

/* When each bucket of ICMP messages is full again (icmp.h). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ICMP_BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} icmp_buckets SEC(".maps");

/* Samples of denials, by source (verdict.h): when its part is full again. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << SAMPLE_SLOTS_BITS);
	__type(key, __u32);
	__type(value, __u64);
} sample_parts SEC(".maps");

#define HOPS_BITS 12

/* A neighbour, of each CPU's `hops`: of which address, and by which interface. */
struct gate_hop {
	struct gate_address address;
	__u64 until;   /* CLOCK_MONOTONIC ns, coarse; as `shown` */
	__u64 shown;   /* when the stack was last given a packet of this slot */
	__u32 ifindex;
	__u8 to[6];    /* MAC addresses: its own, and the interface's */
	__u8 from[6];
};

/* Neighbours as the kernel knew them not long ago (xdp.h). */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << HOPS_BITS);
	__type(key, __u32);
	__type(value, struct gate_hop);
} hops SEC(".maps");

#define SCRATCH 128

/* Which piece of a datagram a packet is. */
struct piece {
	struct gate_datagram of;
	__u32 offset; /* bytes, as `end` */
	__u32 end;
	__u32 more;
};

/* The packet that an error is about, as it is quoted. */
struct quote {
	struct gate_address source;
	struct gate_address destination;
	__u32 at;        /* where its IP header is in the frame */
	__u32 transport; /* and its ports */
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
};

/* Of one packet on its way, what the stack has no room for. */
struct gate_scratch {
	struct piece piece;
	struct quote quote;
	__u8 before[SCRATCH];
	__u8 after[SCRATCH];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gate_scratch);
} scratch SEC(".maps");

static __always_inline struct gate_scratch *gate_scratch(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&scratch, &only);
}

static __always_inline struct gate_state *gate_state(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&state, &only);
}

/* IPv4 in mapped form, and back. */
static __always_inline struct gate_address mapped(__be32 ipv4)
{
	return (struct gate_address){ .high = 0, .low = (__u64)ipv4 << 32 | bpf_htonl(0xffff) };
}

static __always_inline __be32 ipv4_of(const struct gate_address *address)
{
	return address->low >> 32;
}

static __always_inline bool is_mapped(const struct gate_address *address)
{
	return !address->high && (__u32)address->low == bpf_htonl(0xffff);
}

static __always_inline bool same_address(const struct gate_address *a, const struct gate_address *b)
{
	return a->high == b->high && a->low == b->low;
}

static __always_inline struct gate_prefix host_prefix(const struct gate_address *address)
{
	struct gate_prefix key = { .length = 128 };

	__builtin_memcpy(key.address, address, sizeof(key.address));
	return key;
}

static __always_inline struct gate_inner inner_host(__u32 realm, const struct gate_address *address)
{
	struct gate_inner key = { .length = 32 + 128, .realm = realm };

	__builtin_memcpy(key.address, address, sizeof(key.address));
	return key;
}

/* The first bits of eight bytes in network order; the others 0. */
static __always_inline __u64 first_bits(__u64 bytes, __u32 bits)
{
	return bits ? bytes & bpf_cpu_to_be64(~0ULL << (64 - bits)) : 0;
}

/* Whether anybody holds this inner address: a look for each length there is. */
static __noinline bool is_bound(__u32 realm, const struct gate_address *address, bool ipv6)
{
	struct gate_state *now_state = gate_state();
	__u64 lengths;

	if (!now_state)
		return false;
	lengths = ipv6 ? now_state->lengths_ipv6 : now_state->lengths_ipv4;
	for (int i = 0; i < GATE_LENGTHS_MAX; i++) {
		struct gate_inner key = { .realm = realm };
		struct gate_address held;
		__u32 bits = lengths & 0xff;

		if (!bits)
			return false;
		lengths >>= 8;
		held.high = bits < 64 ? first_bits(address->high, bits) : address->high;
		held.low = bits > 64 ? first_bits(address->low, (bits - 64) & 127) : 0;
		key.length = 32 + bits;
		__builtin_memcpy(key.address, &held, sizeof(key.address));
		if (bpf_map_lookup_elem(&bound, &key))
			return true;
	}
	return false;
}

/* Spreads addresses over a power of two of slots. */
static __always_inline __u32 slot_among(const struct gate_address *address, __u32 bits)
{
	return (address->high ^ address->low) * 0x9e3779b97f4a7c15ULL >> (64 - bits);
}

static __noinline __u32 class_in_trie(const struct gate_address *address)
{
	struct gate_prefix key = host_prefix(address);
	__u32 *class_id = bpf_map_lookup_elem(&classes, &key);

	return class_id ? *class_id : 0;
}

/* The server class an address belongs to; 0: none. Packets come in trains, and
 * a look into the trie costs more than all else: what it said holds until the
 * agent has changed it. */
static __always_inline __u32 class_of(const struct gate_address *address)
{
	__u32 slot = slot_among(address, SEEN_CLASSES_BITS);
	struct gate_seen_class *seen = bpf_map_lookup_elem(&seen_classes, &slot);
	struct gate_state *now_state = gate_state();
	__u64 changed;

	if (!seen || !now_state)
		return 0;
	/* Read before the trie is: a change in between is seen by the next packet. */
	changed = *(volatile __u64 *)&now_state->classes_changed;
	if (seen->changed != changed || !same_address(&seen->address, address)) {
		seen->class_id = class_in_trie(address);
		seen->address = *address;
		seen->changed = changed;
	}
	return seen->class_id;
}

/* Where packets to a realm's devices go; NULL: its interface is not there. */
static __always_inline struct gate_route *route_of(__u32 realm)
{
	struct gate_route *route = bpf_map_lookup_elem(&realms, &realm);

	return route && route->ifindex ? route : NULL;
}

/* Whose an address is, and of which realm; 0: nobody's here. */
static __always_inline __u32 ownership_of(const struct gate_address *address)
{
	struct gate_prefix key = host_prefix(address);
	__u32 *owner = bpf_map_lookup_elem(&owned, &key);

	return owner ? *owner : 0;
}

/* The same as enum owner alone. */
static __always_inline __u32 owner_of(const struct gate_address *address)
{
	return ownership_of(address) & ((1 << OWNER_BITS) - 1);
}

static __always_inline bool is_of_device(__u32 owner)
{
	return owner == OWNER_REALM || owner == OWNER_SEEN;
}

/* An address that must neither come from outside nor be seen there. */
static __always_inline bool is_inner(const struct gate_address *address)
{
	__u32 owner = owner_of(address);

	return owner == OWNER_REALM || owner == OWNER_GATEWAY;
}

/* The pool's slot of an IPv4 address; negative: not in the grants pool. */
static __always_inline __s64 slot_of(const struct gate_address *address)
{
	__be32 ipv4 = ipv4_of(address);

#pragma unroll
	for (int i = 0; i < GATE_POOLS_MAX; i++) {
		const volatile struct gate_pool4 *pool = &config.pools4[i];
		__u32 mask = pool->mask;

		if (mask && (ipv4 & mask) == pool->address)
			return pool->slot + bpf_ntohl(ipv4 & ~mask);
	}
	return -1;
}

static __always_inline bool in_ipv6_pool(const struct gate_address *address)
{
#pragma unroll
	for (int i = 0; i < GATE_POOLS_MAX; i++) {
		const volatile struct gate_pool6 *pool = &config.pools6[i];
		__u64 high = pool->mask.high, low = pool->mask.low;

		if (high && (address->high & high) == pool->address.high &&
		    (address->low & low) == pool->address.low)
			return true;
	}
	return false;
}

#endif
