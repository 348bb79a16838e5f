/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What a live grant may carry: packets a second, bytes in all, both
 * directions together, a coalesced packet (GRO) as many as it was on the wire.
 *
 * The rate is a token bucket that holds one second's worth, kept as the time
 * at which it will be full (GCRA): one word, so that of two CPUs that race one
 * wins and the other reckons again. The quota is charged first and given back
 * if that was too much, so that two can never both have the last of it; what
 * has been used is what the entry has counted, and no second account.
 *
 * One look at `limits` decides for a packet: a grant without limits pays that
 * and no more.
 */
#ifndef MTGATE_LIMITS_H
#define MTGATE_LIMITS_H

#include "parse.h"

/* In sixteenths of a nanosecond: whole ones would let a rate of millions be 1 % off. */
#define TICKS 16ULL
#define BUCKET (1000000000ULL * TICKS)
#define RACES_MAX 8

/* Packets and bytes as on the wire. Reckoned, since gso_segs is 0 from sources
 * that the kernel distrusts, from the frame's length and its segments' (struct view).
 * `added`: a header that the packet is still to get. */
static __always_inline struct gate_count load_of(__u32 length, __u32 segment, const struct packet *packet, __u32 added)
{
	struct gate_count load = { .packets = 1, .bytes = length + added };

	if (segment && length > packet->payload) {
		load.packets = (length - packet->payload + segment - 1) / segment;
		load.bytes += (load.packets - 1) * (packet->payload + added);
	}
	return load;
}

static __always_inline __u64 limits_of(const struct gate_entry *entry)
{
	return *(const volatile __u64 *)&entry->limits;
}

static __always_inline bool takes_packets(struct gate_entry *entry, __u64 per_second, __u64 packets, __u64 now)
{
	__u64 cost = packets * BUCKET / per_second;

	now *= TICKS;
	for (int i = 0; i < RACES_MAX; i++) {
		__u64 full = *(volatile __u64 *)&entry->rate_full;
		__u64 then = (full > now ? full : now) + cost;

		if (then - now > BUCKET)
			return false;
		if (__sync_val_compare_and_swap(&entry->rate_full, full, then) == full)
			return true;
	}
	return false;
}

/* Counts the bytes, unless they are more than is left. */
static __always_inline bool takes_bytes(struct gate_entry *entry, __u64 quota, bool inward, __u64 bytes)
{
	struct gate_count *own = inward ? &entry->in : &entry->out;
	struct gate_count *other = inward ? &entry->out : &entry->in;
	__u64 used = __sync_fetch_and_add(&own->bytes, bytes);

	if (used + *(volatile __u64 *)&other->bytes + bytes <= quota)
		return true;
	__sync_fetch_and_add(&own->bytes, -bytes);
	return false;
}

/* Once a packet was refused for the quota the grant is to end: the agent is told. */
static __always_inline void tell_used_up(struct gate_entry *entry, __u32 index)
{
	struct gate_target target = {};

	if (entry->used_up)
		return;
	target.number = entry->number;
	target.index = index;
	if (!bpf_map_push_elem(&used_up, &target, 0))
		entry->used_up = 1;
}

/* Whether a grant's limits let a packet pass; then its bytes are counted if
 * they count toward a quota. A function of its own: most grants have none. */
static __noinline enum reason judge_limits(struct gate_entry *entry, const struct gate_count *load, __u64 limits,
					   bool inward, __u64 now)
{
	__u64 per_second = limits & ((1ULL << LIMIT_BYTES_SHIFT) - 1);
	__u64 quota = limits >> LIMIT_BYTES_SHIFT;

	if (per_second && !takes_packets(entry, per_second, load->packets, now))
		return REASON_PACKET_RATE_EXCEEDED;
	if (quota && !takes_bytes(entry, quota, inward, load->bytes))
		return REASON_BYTE_QUOTA_EXCEEDED;
	return REASON_NONE;
}

#endif
