/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * ICMP and ICMPv6 of granted flows (RFC 5508, RFC 4890): errors about them are
 * carried, either way, and none else. What the gate says itself: answers.h.
 *
 * An error that is carried is written anew, from what it says: type, code, MTU
 * or pointer, and of the quoted packet the IP header and eight bytes, which is
 * what its sender knows its flow by. So nothing else of the inside can hang on
 * it: no router's address (its source is the external one), no extension
 * (RFC 4884, RFC 5837), no padding, no hop count. Errors that would show where
 * hops are used up (time exceeded) do not leave at all. What leaves without a
 * grant, about flows that devices begin, is written anew likewise.
 *
 * Messages are made and carried at a bounded rate for each grant, and only of
 * those whose sum holds (RFC 5508, REQ-3).
 */
#ifndef MTGATE_ICMP_H
#define MTGATE_ICMP_H

#include "guards.h"
#include "nat.h"
#include "normalise.h"
#include "parse.h"
#include "verdict.h"

#define ICMP_BURST 10 /* messages at once, and a second */
#define ICMP_TOO_BIG 4 /* code of unreachable */
#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define ICMP6_EXCEEDED 3
#define ICMP6_PARAMETER 4

#define QUOTED 8      /* bytes behind the quoted IP header */
#define CHUNK 128
#define CHUNKS_MAX 16 /* longer errors there are none (RFC 1812, 4.3.2.3; RFC 4443, 2.4c) */

/* One message; `whose`: by what the senders are kept apart. */
static __always_inline bool takes_icmp(__u32 whose)
{
	const __u64 interval = 1000000000ULL / ICMP_BURST;
	__u32 bucket = whose % ICMP_BUCKETS;
	__u64 *full = bpf_map_lookup_elem(&icmp_buckets, &bucket);
	__u64 now = bpf_ktime_get_ns(), was, then;

	if (!full)
		return false;
	was = *(volatile __u64 *)full;
	then = (was > now ? was : now) + interval;
	return then - now <= interval * ICMP_BURST && __sync_val_compare_and_swap(full, was, then) == was;
}

/* Whether an error of this type is carried; those from inside must show no hops. */
static __always_inline bool is_carried_error(__u8 type, bool ipv6, bool outward)
{
	if (ipv6)
		return type == ICMP6_UNREACHABLE || type == ICMP6_TOO_BIG || type == ICMP6_PARAMETER ||
		       (type == ICMP6_EXCEEDED && !outward);
	return type == ICMP_UNREACHABLE || type == ICMP_PARAMETER || (type == ICMP_EXCEEDED && !outward);
}

/* The header of what an error quotes, and of a piece the fragment header. False: it is none. */
static __always_inline bool read_quoted_header(struct __sk_buff *skb, const struct packet *packet, struct quote *quote,
					       bool *later_piece)
{
	*later_piece = false;
	quote->at = packet->transport + ICMP_HEADER;
	if (packet->ipv6) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, quote->at, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		__builtin_memcpy(&quote->source, &ip.saddr, sizeof(quote->source));
		__builtin_memcpy(&quote->destination, &ip.daddr, sizeof(quote->destination));
		quote->protocol = ip.nexthdr;
		quote->transport = quote->at + sizeof(ip);
		if (quote->protocol == NEXT_FRAGMENT) {
			struct { __u8 next, reserved; __be16 offset; } fragment;

			if (bpf_skb_load_bytes(skb, quote->transport, &fragment, sizeof(fragment)))
				return false;
			*later_piece = fragment.offset & bpf_htons(IPV6_OFFSET);
			quote->protocol = fragment.next;
			quote->transport += 8;
		}
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, quote->at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return false;
		*later_piece = ip.frag_off & bpf_htons(IPV4_OFFSET);
		quote->source = mapped(ip.saddr);
		quote->destination = mapped(ip.daddr);
		quote->protocol = ip.protocol;
		quote->transport = quote->at + ip.ihl * 4;
	}
	return true;
}

/* Reads what an error quotes, if it could be of a grant: a TCP or UDP packet,
 * whole or the first piece, behind options or none (RFC 5508, REQ-3b). */
static __always_inline bool read_quote(struct __sk_buff *skb, const struct packet *packet, struct quote *quote)
{
	bool later_piece;
	__be16 ports[2];

	if (!read_quoted_header(skb, packet, quote, &later_piece) || later_piece)
		return false;
	if (quote->protocol != IPPROTO_TCP && quote->protocol != IPPROTO_UDP)
		return false;
	if (quote->transport + QUOTED > packet->end || bpf_skb_load_bytes(skb, quote->transport, ports, sizeof(ports)))
		return false;
	quote->source_port = ports[0];
	quote->destination_port = ports[1];
	return true;
}

/* What is summed of a frame, and what is left of it. */
struct summing {
	struct __sk_buff *skb;
	__u32 at, left;
	__u64 sum;
};

/* A chunk of it. 1: there is no more that could be read. */
static long sum_chunk(__u32 step, struct summing *summing)
{
	struct gate_scratch *room = gate_scratch();
	__u32 length = summing->left < CHUNK ? summing->left : CHUNK;

	if (!room || step >= CHUNKS_MAX || !length)
		return 1;
	/* Linux 6.1 draws nothing from a length not being 0; what a mask leaves it knows. */
	asm volatile("" : "+r"(length));
	length = ((length - 1) & (CHUNK - 1)) + 1;
	__builtin_memset(room->before, 0, CHUNK);
	if (bpf_skb_load_bytes(summing->skb, summing->at, room->before, length))
		return 1;
	summing->sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)room->before, CHUNK, 0);
	summing->at += length;
	summing->left -= length;
	return 0;
}

/* The sum of so many bytes of a frame, folded, with what it begins with; 0: they could not be read. */
__noinline int sum_of(struct __sk_buff *skb, __u32 at, __u32 left, __u32 begin)
{
	struct summing summing = { .skb = skb, .at = at, .left = left, .sum = begin };

	bpf_loop(CHUNKS_MAX, sum_chunk, &summing, 0);
	return summing.left ? 0 : folded(summing.sum);
}

/* Whether the sum of an ICMP message holds. */
static __always_inline bool holds_sum(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 length = packet->end - packet->transport;
	__u64 begin = 0;

	if (packet->ipv6)
		begin = pseudo_header(&packet->source, &packet->destination, length, IPPROTO_ICMPV6);
	return sum_of(skb, packet->transport, length, folded(begin)) == 0xffff;
}

/* An IP header of our own, of a message of `length` bytes in all. */
static __always_inline void begin_ipv4(struct iphdr *ip, __u32 length, const struct gate_address *source,
				       const struct gate_address *destination, __u8 hops)
{
	__u16 *halves = (__u16 *)ip;
	__u64 sum = 0;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(length);
	ip->frag_off = bpf_htons(IPV4_DONT_FRAGMENT);
	ip->ttl = hops;
	ip->protocol = IPPROTO_ICMP;
	ip->saddr = ipv4_of(source);
	ip->daddr = ipv4_of(destination);
#pragma unroll
	for (unsigned int i = 0; i < sizeof(*ip) / 2; i++)
		sum += halves[i];
	ip->check = ~folded(sum);
}

static __always_inline void begin_ipv6(struct ipv6hdr *ip, __u32 length, const struct gate_address *source,
				       const struct gate_address *destination, __u8 hops)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->payload_len = bpf_htons(length - sizeof(*ip));
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = hops;
	__builtin_memcpy(&ip->saddr, source, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, destination, sizeof(ip->daddr));
}

/* What stands at the beginning of an ICMP error. */
struct error {
	__u8 type, code;
	__u16 check;
	__u8 rest[4]; /* MTU or pointer, or nothing */
};

/* Of an error, what it says beside its type: nothing that says how long the quote is (RFC 4884). */
static __always_inline void keep_meaning(struct error *error, bool ipv6)
{
	if (ipv6) {
		if (error->type != ICMP6_TOO_BIG && error->type != ICMP6_PARAMETER)
			__builtin_memset(error->rest, 0, sizeof(error->rest));
		return;
	}
	error->rest[1] = 0;
	if (error->type != ICMP_PARAMETER)
		error->rest[0] = 0;
	if (error->type != ICMP_UNREACHABLE || error->code != ICMP_TOO_BIG)
		error->rest[2] = error->rest[3] = 0;
}

/* One end of the quoted packet, in the quoted header and in its first bytes. */
static __always_inline void requote(void *ip, __u8 *first, const struct quote *quote, bool ipv6, enum side side,
				    const struct change *change)
{
	const struct gate_address *from = side == SOURCE ? &quote->source : &quote->destination;
	__be16 *ports = (__be16 *)first, *check = (__be16 *)(first + offsetof(struct udphdr, check));
	__be16 from_port = ports[side];

	ports[side] = change->port;
	if (quote->protocol == IPPROTO_UDP && *check) {
		__u64 sum = (__u64)(__u16)~*check + (__u16)~from_port + change->port;

		*check = ~folded(sum + readdressed(from, change->to, ipv6));
	}
	if (ipv6) {
		struct ipv6hdr *header = ip;

		__builtin_memcpy(side == SOURCE ? &header->saddr : &header->daddr, change->to, sizeof(*change->to));
	} else {
		struct iphdr *header = ip;

		*(side == SOURCE ? &header->saddr : &header->daddr) = ipv4_of(change->to);
	}
}

/* The quoted header as all have it: no options, no piece's, and no hops. */
static __always_inline void level_quote(void *ip, const struct quote *quote, bool ipv6)
{
	if (ipv6) {
		struct ipv6hdr *header = ip;

		header->nexthdr = quote->protocol;
		if (config.hop_limit)
			header->hop_limit = config.hop_limit;
	} else {
		struct iphdr *header = ip;
		__u16 *halves = ip;
		__u64 sum = 0;

		header->ihl = sizeof(*header) / 4;
		if (config.hop_limit)
			header->ttl = config.hop_limit;
		header->check = 0;
#pragma unroll
		for (unsigned int i = 0; i < sizeof(*header) / 2; i++)
			sum += halves[i];
		header->check = ~folded(sum);
	}
}

/* Writes an error anew, with so many hops. With a change, the end of the quoted
 * packet that was rewritten is changed back, and the error's own with it:
 * `side` is that of the quoted packet, so inward it is the source. False: it is
 * spoilt. */
static __always_inline bool write_error(struct __sk_buff *skb, const struct packet *packet, const struct quote *quote,
					__u32 network, __u8 hops, enum side side, const struct change *change)
{
	const struct gate_address *source = change && side == DESTINATION ? change->to : &packet->source;
	const struct gate_address *destination = change && side == SOURCE ? change->to : &packet->destination;
	__u32 header = packet->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 length = 2 * header + sizeof(struct error) + QUOTED;
	struct gate_scratch *room = gate_scratch();
	__u64 sum = 0;

	if (!room || (skb->vlan_present && bpf_skb_vlan_pop(skb)))
		return false;
	if (packet->ipv6) {
		struct { struct ipv6hdr ip; struct error error; struct ipv6hdr quoted; __u8 first[QUOTED]; } *new =
			(void *)room->after;

		if (bpf_skb_load_bytes(skb, packet->transport, &new->error, sizeof(new->error)) ||
		    bpf_skb_load_bytes(skb, quote->at, &new->quoted, sizeof(new->quoted)) ||
		    bpf_skb_load_bytes(skb, quote->transport, new->first, sizeof(new->first)))
			return false;
		begin_ipv6(&new->ip, length, source, destination, hops);
		if (change)
			requote(&new->quoted, new->first, quote, true, side, change);
		level_quote(&new->quoted, quote, true);
		keep_meaning(&new->error, true);
		new->error.check = 0;
		sum = pseudo_header(source, destination, length - header, IPPROTO_ICMPV6);
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&new->error,
					    sizeof(*new) - sizeof(new->ip), 0);
		new->error.check = ~folded(sum);
	} else {
		struct { struct iphdr ip; struct error error; struct iphdr quoted; __u8 first[QUOTED]; } *new =
			(void *)room->after;

		if (bpf_skb_load_bytes(skb, packet->transport, &new->error, sizeof(new->error)) ||
		    bpf_skb_load_bytes(skb, quote->at, &new->quoted, sizeof(new->quoted)) ||
		    bpf_skb_load_bytes(skb, quote->transport, new->first, sizeof(new->first)))
			return false;
		begin_ipv4(&new->ip, length, source, destination, hops);
		if (change)
			requote(&new->quoted, new->first, quote, false, side, change);
		level_quote(&new->quoted, quote, false);
		keep_meaning(&new->error, false);
		new->error.check = 0;
		sum = (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&new->error, sizeof(*new) - sizeof(new->ip), 0);
		new->error.check = ~folded(sum);
	}
	if (length < 2 * sizeof(struct iphdr) || length > 2 * sizeof(struct ipv6hdr) + sizeof(struct error) + QUOTED)
		return false;
	return !bpf_skb_change_tail(skb, network + length, 0) &&
	       !bpf_skb_store_bytes(skb, network, room->after, length, BPF_F_RECOMPUTE_CSUM);
}

/*
 * ICMP to the outside that no grant carries: the base's, or the host's own. An
 * error that quotes an inner address to who does not know it is dropped (RFC
 * 5508, REQ-4 and 5: a NAT translates the quote; this one has not been). The
 * kinds that hosts go by are written anew, as those of grants are; others, such
 * as redirects, name routers: of devices none leaves, by the base, and by this.
 */
__noinline int icmp_to_outside(struct __sk_buff *skb, struct packet *packet, __u32 known)
{
	struct gate_scratch *room = gate_scratch();
	struct quote *quote;
	bool later_piece;
	__u8 type;

	if (!packet || !room || bpf_skb_load_bytes(skb, packet->transport, &type, sizeof(type)))
		return drop(skb, REASON_MALFORMED);
	if (!is_error(type, packet->ipv6))
		return TC_ACT_UNSPEC;
	quote = &room->quote;
	if (!read_quoted_header(skb, packet, quote, &later_piece))
		return drop(skb, REASON_MALFORMED);
	if (!known && (is_inner(&quote->source) || is_inner(&quote->destination)))
		return drop(skb, REASON_INNER_LEAK);
	if (!is_carried_error(type, packet->ipv6, false))
		return known ? drop(skb, REASON_ERROR_NOT_CARRIED) : TC_ACT_UNSPEC;
	/* Errors are short: in pieces come only those that hide something. */
	if (packet->unfit == REASON_FRAGMENT)
		return drop(skb, REASON_FRAGMENT);
	if (quote->transport + QUOTED > packet->end ||
	    !write_error(skb, packet, quote, BEHIND_ETHERNET, config.hop_limit ? config.hop_limit : packet->hops, SOURCE,
			 NULL))
		return drop(skb, REASON_MALFORMED);
	return TC_ACT_UNSPEC;
}

#endif
