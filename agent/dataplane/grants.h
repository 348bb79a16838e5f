/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Which grant a packet is of, and whether that one lets it pass: the same
 * answer at every hook, since it needs the maps and what was read of the
 * packet, and not the packet. The order of the checks is part of the contract:
 * memory.ts keeps the same.
 */
#ifndef MTGATE_GRANTS_H
#define MTGATE_GRANTS_H

#include "fragments.h"
#include "limits.h"
#include "maps.h"
#include "parse.h"
#include "verdict.h"

static __always_inline bool in_grants_pool(const struct packet *packet, const struct gate_address *address)
{
	return packet->ipv6 ? in_ipv6_pool(address) : slot_of(address) >= 0;
}

/* Where the tables have a key, and by what tag. */
struct place {
	__u32 bucket;
	__u32 tag;
};

/* Of a key's words. Two sums side by side: what shares a bucket need not share a tag. */
static __always_inline struct place place_of(const __u32 *words, __u32 count, __u64 seed)
{
	__u32 a = seed, b = seed >> 32;

#pragma unroll
	for (__u32 i = 0; i < count; i++) {
		a = (a ^ words[i]) * 0x9e3779b1u;
		a ^= a >> 15;
		b = (b + words[i]) * 0x85ebca6bu;
		b ^= b >> 13;
	}
	return (struct place){ .bucket = a, .tag = b | 1 };
}

static __always_inline __u32 second_bucket(struct place place)
{
	return place.bucket ^ (place.tag >> 1) * 0x27d4eb2fu;
}

static __always_inline bool is_endpoint(const struct gate_entry *entry, const struct gate_endpoint *key)
{
	return entry->external_port == key->port && entry->protocol == key->protocol &&
	       same_address(&entry->external, &key->address);
}

static __always_inline bool is_answer(const struct gate_entry *entry, const struct gate_answer *key)
{
	return entry->device_port == key->port && entry->protocol == key->protocol && entry->realm == key->realm &&
	       entry->class_id == key->class_id && same_address(&entry->device, &key->device);
}

/* Which of the tables a key is for: a constant wherever it is used. */
enum table { ENDPOINTS, ANSWERS };

/* The entry of a key in one of its buckets. */
static __always_inline struct gate_entry *entry_in(enum table table, __u32 bucket_number, __u32 tag, const void *key,
						   __u32 *index)
{
	struct gate_bucket *bucket;

	if (table == ENDPOINTS)
		bucket = bpf_map_lookup_elem(&endpoints, &bucket_number);
	else
		bucket = bpf_map_lookup_elem(&answers, &bucket_number);
	if (!bucket)
		return NULL;
	for (int i = 0; i < BUCKET_SLOTS; i++) {
		__u64 slot = *(volatile __u64 *)&bucket->slots[i];
		struct gate_entry *entry;

		if (slot >> 32 != tag)
			continue;
		*index = slot;
		entry = bpf_map_lookup_elem(&entries, index);
		if (entry && (table == ENDPOINTS ? is_endpoint(entry, key) : is_answer(entry, key)))
			return entry;
	}
	return NULL;
}

/* The entry of a key of so many words, in a table of so many buckets less one. */
static __always_inline struct gate_entry *entry_of_key(enum table table, const void *key, __u32 words, __u32 mask,
						       __u32 *index)
{
	struct gate_state *now_state = gate_state();
	struct gate_entry *entry;
	struct place place;

	if (!now_state)
		return NULL;
	place = place_of(key, words, now_state->seed);
	entry = entry_in(table, place.bucket & mask, place.tag, key, index);
	return entry ? entry : entry_in(table, second_bucket(place) & mask, place.tag, key, index);
}

static __noinline struct gate_entry *entry_of_endpoint(const struct gate_endpoint *key, __u32 *index)
{
	return entry_of_key(ENDPOINTS, key, sizeof(*key) / sizeof(__u32), config.endpoints_mask, index);
}

static __noinline struct gate_entry *entry_of_answer(const struct gate_answer *key, __u32 *index)
{
	return entry_of_key(ANSWERS, key, sizeof(*key) / sizeof(__u32), config.answers_mask, index);
}

/* The entry of an external endpoint of the pool, if one was ever opened there, and its place. */
static __always_inline struct gate_entry *entry_of_external(const struct gate_address *address, __be16 port,
							    __u8 protocol, bool ipv6, __u32 *index)
{
	__u32 offset = bpf_ntohs(port) - config.port_low;
	bool udp = protocol == IPPROTO_UDP;
	struct gate_entry *entry;

	if (offset >= config.port_count)
		return NULL;
	if (!ipv6) {
		*index = (slot_of(address) * 2 + udp) * config.port_count + offset;
		entry = bpf_map_lookup_elem(&entries, index);
	} else {
		struct gate_endpoint key = {};

		key.address = *address;
		key.port = port;
		key.protocol = protocol;
		entry = entry_of_endpoint(&key, index);
	}
	return entry && entry->end ? entry : NULL;
}

/* The entry of the grant by which a device's endpoint and a peer speak, live or not. */
static __always_inline struct gate_entry *entry_of_device(const struct gate_address *device, __be16 port,
							  const struct gate_address *peer, __u8 protocol, __u16 realm,
							  __u32 *index)
{
	struct gate_answer key = {};
	struct gate_entry *entry;

	key.class_id = class_of(peer);
	if (!key.class_id)
		return NULL;
	key.device = *device;
	key.realm = realm;
	key.port = port;
	key.protocol = protocol;
	entry = entry_of_answer(&key, index);
	return entry && entry->end ? entry : NULL;
}

/* Where a packet from outside aims at, in the place of a realm's number or beside it. */
#define TO_POOL 0x10000
#define TO_SEEN 0x20000 /* to a device that the outside knows by its address */

/* The entry that leads from an endpoint as the outside knows it to a device's. */
static __always_inline struct gate_entry *entry_inward(__u32 aim, const struct packet *packet,
						       const struct gate_address *external, __be16 port,
						       const struct gate_address *peer, __u8 protocol, __u32 *index)
{
	struct gate_entry *entry;

	if (aim == TO_POOL)
		return entry_of_external(external, port, protocol, packet->ipv6, index);
	entry = entry_of_device(external, port, peer, protocol, (__u16)aim, index);
	return entry && entry->flags & ENTRY_UNTRANSLATED ? entry : NULL;
}

/* Nobody hears any more that an address changed hands: no grant holds. */
static __always_inline bool agent_lost(const struct gate_state *now_state, __u64 now)
{
	return !now_state->heartbeat || now_state->heartbeat + now_state->orphan_grace <= now;
}

static __always_inline bool is_remote(const struct gate_entry *entry, const struct gate_address *address, __be16 port)
{
	return (entry->flags & ENTRY_ANY_REMOTE || same_address(&entry->remote, address)) &&
	       (!entry->remote_port || entry->remote_port == port);
}

/* Where there is a quota, the bytes were counted when it was charged. */
static __always_inline void count_carried(struct gate_count *grant, const struct gate_count *load, __u64 limits,
					  enum counter counter)
{
	__sync_fetch_and_add(&grant->packets, load->packets);
	if (!(limits >> LIMIT_BYTES_SHIFT))
		__sync_fetch_and_add(&grant->bytes, load->bytes);
	count(counter, load->packets, load->bytes);
}

static __always_inline bool is_changing_hands(const struct gate_state *now_state, const struct gate_address *address,
					      __u32 realm)
{
	struct gate_inner key;

	if (!now_state->changing)
		return false;
	key = inner_host(realm, address);
	return bpf_map_lookup_elem(&changing, &key);
}

/* What a packet and a grant are to each other. `limits` lie in the entry's
 * other cache line, and are read with its first, so that both come at once. */
struct claim {
	struct gate_entry *entry;
	struct gate_route *route; /* of the device's realm */
	__u64 now;
	__u64 limits;
	__u32 index;
};

/* Whether a packet from outside is for a grant that holds, and for whom it is
 * from; else why not. The same at every hook: nothing but maps is looked at. */
static __always_inline enum reason judge_inward(struct packet *packet, __u32 aim, struct claim *claim)
{
	struct gate_state *now_state;
	struct gate_entry *entry;

	claim->now = bpf_ktime_get_coarse_ns();
	if (packet->share == LATER_PIECE) {
		entry = entry_of_piece(packet, claim->now, &claim->index);
		if (!entry)
			return REASON_FRAGMENT;
	} else {
		entry = entry_inward(aim, packet, &packet->destination, packet->destination_port, &packet->source,
				     packet->protocol, &claim->index);
		if (!entry)
			return REASON_NO_GRANT;
	}
	claim->entry = entry;
	claim->limits = limits_of(entry);
	if (entry->end <= claim->now)
		return REASON_GRANT_ENDED;
	now_state = gate_state();
	if (!now_state || agent_lost(now_state, claim->now))
		return REASON_AGENT_LOST;
	if (class_of(&packet->source) != entry->class_id || !is_remote(entry, &packet->source, packet->source_port))
		return REASON_WRONG_SOURCE;
	if (packet->hops <= 1)
		return REASON_HOP_LIMIT;
	claim->route = route_of(entry->realm);
	return claim->route ? REASON_NONE : REASON_NO_GRANT;
}

/* Whether a reason says that there is no grant, or none any more, and not that one was misused. */
static __always_inline bool is_absence(enum reason reason)
{
	return reason == REASON_NO_GRANT || reason == REASON_GRANT_ENDED || reason == REASON_FRAGMENT;
}

/* The same of a packet from a device. REASON_NONE without an entry: it is of no grant. */
static __always_inline enum reason judge_outward(struct packet *packet, __u16 realm, const struct gate_state *now_state,
						 struct claim *claim)
{
	struct gate_entry *entry;

	claim->now = bpf_ktime_get_coarse_ns();
	if (packet->share == LATER_PIECE)
		entry = entry_of_piece(packet, claim->now, &claim->index);
	else
		entry = entry_of_device(&packet->source, packet->source_port, &packet->destination, packet->protocol,
					realm, &claim->index);
	if (!entry)
		return REASON_NONE;
	claim->limits = limits_of(entry);
	if (entry->end <= claim->now) {
		if (packet->protocol == IPPROTO_UDP && claim->now < entry->end + now_state->tombstone &&
		    is_remote(entry, &packet->destination, packet->destination_port))
			return REASON_TOMBSTONE;
		return REASON_NONE;
	}
	claim->entry = entry;
	if (agent_lost(now_state, claim->now))
		return REASON_AGENT_LOST;
	if (!is_remote(entry, &packet->destination, packet->destination_port))
		return REASON_WRONG_REMOTE;
	if (packet->hops <= 1)
		return REASON_HOP_LIMIT;
	return REASON_NONE;
}

/* What the limits of its grant have against a packet that fits: then nothing of them is used. */
static __always_inline enum reason charge(struct claim *claim, const struct gate_count *load, bool inward)
{
	enum reason beyond;

	if (!claim->limits)
		return REASON_NONE;
	beyond = judge_limits(claim->entry, load, claim->limits, inward, claim->now);
	if (beyond == REASON_BYTE_QUOTA_EXCEEDED)
		tell_used_up(claim->entry, claim->index);
	return beyond;
}

/* Gives back the bytes of a packet that was charged, and is not carried all the same. */
static __always_inline void give_back(struct claim *claim, const struct gate_count *load, bool inward)
{
	struct gate_count *own = inward ? &claim->entry->in : &claim->entry->out;

	if (claim->limits >> LIMIT_BYTES_SHIFT)
		__sync_fetch_and_add(&own->bytes, -load->bytes);
}

#endif
