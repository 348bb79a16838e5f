/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the headers of carried packets would tell beside their addresses, and
 * is made alike: how far away the device is (hop limit), which packets are of
 * one sender (IPv4 identification, RFC 6864; IPv6 flow label, RFC 6437; the
 * clock in TCP timestamps, RFC 7323), what a network thinks of them (DSCP; ECN
 * stays, RFC 3168). And a TCP segment is kept to what both links take.
 *
 * Identifications are permuted, by the gateway's key and the grant's number:
 * two datagrams of a grant that had two have two again, which is all that they
 * are for, and the pieces of one datagram agree without being remembered. One
 * that means nothing (RFC 6864, 4.1: no fragment, and never to be one) is 0.
 */
#ifndef MTGATE_NORMALISE_H
#define MTGATE_NORMALISE_H

#include "sums.h"

#define ECN 3 /* of the traffic class */

#define ROUNDS 4
#define OPTIONS_MAX 40 /* bytes of TCP options */
#define OPTION_END 0
#define OPTION_NOTHING 1
#define OPTION_MSS 2
#define OPTION_MSS_SIZE 4
#define OPTION_TIMESTAMPS 8
#define OPTION_TIMESTAMPS_SIZE 10
#define OPTION_MPTCP 30

static __always_inline __u8 hops_of(__u8 hops)
{
	return config.hop_limit ? config.hop_limit : hops - 1;
}

/* A permutation of numbers of 2 * `bits` bits (a Feistel network), another for each grant. */
static __always_inline __u32 permuted(__u32 number, __u32 bits, __u64 grant)
{
	__u64 key = (config.identification_key ^ grant) * 0x9e3779b97f4a7c15ULL;
	__u32 mask = (1U << bits) - 1, left = number >> bits, right = number & mask;

#pragma unroll
	for (int i = 0; i < ROUNDS; i++) {
		__u32 mixed = (right ^ (__u32)key) * 0x85ebca6bU;
		__u32 next = left ^ ((mixed ^ mixed >> 15) & mask);

		left = right;
		right = next;
		key = key >> 16 | key << 48;
	}
	return left << bits | right;
}

/* The identification of an IPv4 packet from a device. */
static __always_inline __be16 identification_of(__be16 own, __be16 fragment, __u64 grant)
{
	if (!(config.normalise & NORMALISE_IDENTIFICATION))
		return own;
	if ((fragment & bpf_htons(IPV4_DONT_FRAGMENT | IPV4_FRAGMENT)) == bpf_htons(IPV4_DONT_FRAGMENT))
		return 0;
	return bpf_htons(permuted(bpf_ntohs(own), 8, grant));
}

/* The first word of an IPv6 header, in network order; outward or not. */
static __always_inline __be32 ipv6_word_of(__be32 word, bool outward)
{
	__be32 kept = 0xffffffff;

	if (outward && config.normalise & NORMALISE_FLOW_LABEL)
		kept &= ~bpf_htonl(0x000fffff);
	if (config.normalise & NORMALISE_TRAFFIC_CLASS)
		kept &= ~bpf_htonl((0xff ^ ECN) << 20);
	return word & kept;
}

/* A walk over a copy of a SYN's options, in the scratch. */
struct walk {
	__u32 at, length;
	__u32 mss;
	bool changed;
};

/* One option: timestamps become nothing, the MSS is at most `mss`, and multipath
 * TCP is never agreed upon, since it tells its peer what other addresses a host
 * has (RFC 8684, 3.4.1) and links flows by tokens. What follows
 * an option that cannot be read stays as it is: no stack reads on there (RFC
 * 9293, 3.2). 1: there is no more. A callback of bpf_loop, since in a loop of
 * its own the verifier would follow every length that each option may have. */
static long amend_option(__u32 step, struct walk *walk)
{
	struct gate_scratch *room = gate_scratch();
	__u32 at = walk->at;
	__u8 kind, size, *option;

	if (!room || step >= OPTIONS_MAX || at + 1 >= walk->length || at >= OPTIONS_MAX)
		return 1;
	option = room->after + at;
	kind = option[0];
	size = option[1];
	if (kind == OPTION_END)
		return 1;
	if (kind == OPTION_NOTHING) {
		walk->at = at + 1;
		return 0;
	}
	if (size < 2 || at + size > walk->length)
		return 1;
	if (kind == OPTION_MSS && size == OPTION_MSS_SIZE && walk->mss &&
	    ((__u32)option[2] << 8 | option[3]) > walk->mss) {
		option[2] = walk->mss >> 8;
		option[3] = walk->mss;
		walk->changed = true;
	} else if (kind == OPTION_TIMESTAMPS && size == OPTION_TIMESTAMPS_SIZE &&
		   config.normalise & NORMALISE_TIMESTAMPS) {
		__builtin_memset(option, OPTION_NOTHING, OPTION_TIMESTAMPS_SIZE);
		walk->changed = true;
	} else if (kind == OPTION_MPTCP) {
		for (__u32 i = 0; i < OPTIONS_MAX && i < size && at + i < OPTIONS_MAX; i++)
			room->after[at + i] = OPTION_NOTHING;
		walk->changed = true;
	}
	walk->at = at + size;
	return 0;
}

/* The largest segment that both links take: of the smaller one of their MTUs that are known. */
static __always_inline __u32 mss_between(__u32 mtu, __u32 other, bool ipv6)
{
	__u32 headers = (ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(struct tcphdr);
	__u32 smaller = mtu && (!other || mtu < other) ? mtu : other;

	return smaller > headers && config.normalise & NORMALISE_MSS ? smaller - headers : 0;
}

/* The options of a SYN, from its transport header on to its payload. A global
 * function, which the verifier looks at once, and not from each place where
 * it is called. 0: they could not be written. */
__noinline int normalise_syn(struct __sk_buff *skb, __u32 transport, __u32 payload, __u32 mss)
{
	__u32 at = transport + sizeof(struct tcphdr);
	__u32 length = payload - at;
	struct gate_scratch *room = gate_scratch();
	struct walk walk = { .mss = mss };
	__s64 difference;

	if (!room || !length)
		return !!room;
	/* A multiple of 4, and not 0, as Linux 6.1 sees it too: what a mask leaves it knows. */
	asm volatile("" : "+r"(length));
	length = ((length - 4) & 60) + 4;
	walk.length = length;
	if (bpf_skb_load_bytes(skb, at, room->before, length) || bpf_skb_load_bytes(skb, at, room->after, length))
		return 0;
	bpf_loop(OPTIONS_MAX, amend_option, &walk, 0);
	if (!walk.changed)
		return 1;
	difference = bpf_csum_diff((__be32 *)room->before, length, (__be32 *)room->after, length, 0);
	if (difference < 0)
		return 0;
	return !bpf_l4_csum_replace(skb, transport + offsetof(struct tcphdr, check), 0, difference, 0) &&
	       !bpf_skb_store_bytes(skb, at, room->after, length, 0);
}

#endif
