/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Internet checksums (RFC 1071): reckoned, told apart from those that are left
 * to the hardware, and changed in place with what they are of (RFC 1624).
 */
#ifndef MTGATE_SUMS_H
#define MTGATE_SUMS_H

#include "parse.h"

/* Which end of a packet is rewritten. Its source: it goes outward. */
enum side { SOURCE, DESTINATION };

/* What becomes of it. */
struct change {
	const struct gate_address *to;
	__u64 number;  /* of the grant */
	__be16 port;
	bool by_stack; /* which takes a hop of its own when it forwards */
};

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u64 pseudo_header(const struct gate_address *source, const struct gate_address *destination,
					   __u32 length, __u8 protocol)
{
	__u64 sum = (__u32)source->high + (source->high >> 32) + (__u32)source->low + (source->low >> 32);

	sum += (__u32)destination->high + (destination->high >> 32) + (__u32)destination->low + (destination->low >> 32);
	return sum + bpf_htonl(length) + bpf_htonl(protocol);
}

static __always_inline __be16 *sum_in(struct view view, const struct packet *packet, __u32 network)
{
	__u32 at = transport_of(packet, network);

	return view.start + at + (packet->protocol == IPPROTO_UDP ? offsetof(struct udphdr, check)
								  : offsetof(struct tcphdr, check));
}

/* Whether a packet's sum is one that the stack left to the hardware (veth, GRO):
 * that of the pseudo header alone. One complete sum in 65,535 looks the same,
 * and takes the longer way. */
static __always_inline bool is_unfinished(struct view view, const struct packet *packet, __u32 network)
{
	__u32 length = packet->end - transport_of(packet, network);
	__be16 *sum = sum_in(view, packet, network);

	return (void *)(sum + 1) > view.end ||
	       *sum == folded(pseudo_header(&packet->source, &packet->destination, length, packet->protocol));
}

/* What changes in a sum when one address becomes another. */
static __always_inline __u64 readdressed(const struct gate_address *from, const struct gate_address *to, bool ipv6)
{
	__u64 words = (__u64)(__u32)~(from->low >> 32) + (to->low >> 32);

	if (ipv6) {
		words += (__u64)(__u32)~from->low + (__u32)to->low;
		words += (__u64)(__u32)~from->high + (__u32)to->high;
		words += (__u64)(__u32)~(from->high >> 32) + (to->high >> 32);
	}
	return words;
}

/* The transport's sum, which is complete, for another address and port (RFC
 * 1624), before the port is written. `changed` gets what the transport's own
 * words, with that port, have changed by. False: the sum is not there. */
static __always_inline bool write_sum(struct view view, const struct packet *packet, __u32 network, enum side side,
				      const struct change *change, __u64 *changed)
{
	const struct gate_address *from = side == SOURCE ? &packet->source : &packet->destination;
	__be16 port = side == SOURCE ? packet->source_port : packet->destination_port;
	__be16 *sum = sum_in(view, packet, network);
	bool udp = packet->protocol == IPPROTO_UDP;
	__u64 other_port = (__u64)(__u16)~port + change->port;
	__be16 before;

	if ((void *)(sum + 1) > view.end)
		return false;
	*changed += other_port;
	before = *sum;
	if (udp && !before)
		return true;
	*sum = ~folded((__u64)(__u16)~before + other_port + readdressed(from, change->to, packet->ipv6));
	if (udp && !*sum)
		*sum = 0xffff;
	*changed += (__u64)(__u16)~before + *sum;
	return true;
}

#endif
