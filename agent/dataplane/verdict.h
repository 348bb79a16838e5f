/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * How a look at a packet can end, and how it is counted.
 *
 * Each packet counts once on its way: at the ingress hook where it came in,
 * as carried, passed or denied; at the egress hook only if it is denied there.
 * Denied and passed packets count as the gate saw them, a coalesced one as
 * one, so that denials = sampled + not sampled; carried ones as on the wire.
 *
 * Passing is TC_ACT_UNSPEC: whatever else is attached behind the gate still
 * has its say. The reason of a denial is left in the packet's mark: for the
 * sampled ones nftables reads it, for the dropped ones a drop monitor or
 * BPF_PROG_TEST_RUN.
 */
#ifndef MTGATE_VERDICT_H
#define MTGATE_VERDICT_H

#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include "maps.h"
#include "parse.h"

static __always_inline void count(__u32 counter, __u64 packets, __u64 bytes)
{
	struct gate_count *slot = bpf_map_lookup_elem(&counters, &counter);

	if (slot) {
		slot->packets += packets;
		slot->bytes += bytes;
	}
}

/* Not the gate's business: to the stack and the base. */
static __always_inline int pass(const struct __sk_buff *skb)
{
	count(COUNTER_PASSED, 1, skb->len);
	return TC_ACT_UNSPEC;
}

/* Of the sources that share a slot, when their part of the samples is full again. */
static __always_inline __u64 *sample_part(const struct packet *packet)
{
	__u32 slot = packet ? slot_among(&packet->source, SAMPLE_SLOTS_BITS) : 0;

	return bpf_map_lookup_elem(&sample_parts, &slot);
}

/* Whether a denial may be looked at: one an interval on the average, and as
 * many at once as belong to SAMPLE_BURST_NS (GCRA), so that whoever asks twice in
 * a row is told of twice; of one source SAMPLE_SHARE times fewer, so that who
 * floods does not hide who knocks once. Nothing is written. The coarse clock
 * will do, since its tick is shorter than the burst. */
static __always_inline bool may_sample(const struct gate_state *now_state, const __u64 *part)
{
	__u64 limit = bpf_ktime_get_coarse_ns() + SAMPLE_BURST_NS;

	return now_state && part && now_state->sample_interval && limit >= now_state->sample_next &&
	       limit >= *(const volatile __u64 *)part;
}

/* Takes one. Of two that race one wins; the other is simply not sampled. */
static __always_inline bool sample(const struct packet *packet)
{
	struct gate_state *now_state = gate_state();
	__u64 *part = sample_part(packet);
	__u64 interval, next, own, now;

	if (!now_state || !part || !may_sample(now_state, part))
		return false;
	now = bpf_ktime_get_coarse_ns();
	interval = now_state->sample_interval;
	next = now_state->sample_next;
	if (__sync_val_compare_and_swap(&now_state->sample_next, next, (now > next ? now : next) + interval) != next)
		return false;
	own = *part;
	*part = (now > own ? now : own) + interval * SAMPLE_SHARE;
	return true;
}

static __always_inline int drop(struct __sk_buff *skb, __u32 reason)
{
	count(reason, 1, skb->len);
	skb->mark = GATE_MARK | reason;
	return TC_ACT_SHOT;
}

/*
 * A denial at an ingress hook. Sampled, it goes on to the netfilter ingress
 * hook, which logs and drops it; as a packet for another host it is dropped
 * by the stack's first look if no table is there, unanswered. TC_ACT_OK and
 * not UNSPEC: nothing attached behind the gate may undo this.
 *
 * A function of its own, so that thirty refusals do not push the good path out
 * of the cache; and global, as all that is called from many places: the
 * verifier looks at such a function once, whoever calls it.
 */
__noinline int deny(struct __sk_buff *skb, const struct packet *packet, __u32 reason)
{
	int verdict = drop(skb, reason);

	if (!sample(packet) || bpf_skb_change_type(skb, PACKET_OTHERHOST))
		return verdict;
	count(COUNTER_SAMPLED, 1, skb->len);
	return TC_ACT_OK;
}

#endif
