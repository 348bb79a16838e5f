/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Carrying: one end of a packet is rewritten, its headers are made like those
 * of all others (normalise.h), and it is handed to the other side's interface.
 *
 * All fields are written in place, sums by RFC 1624, so that a wrong one stays
 * wrong. A transport's sum that may be partial (offloaded: only the pseudo
 * header is in it, so the port must not be) goes through the kernel's helper,
 * which alone knows; so does that of a datagram's first piece.
 * skb->csum of a packet summed by the NIC follows what has changed in all:
 * nothing in an IPv4 header, whose own sum hides it. For IPv6 the helper reckons
 * as for IPv4 (Linux 6.16 has a flag for it, older ones refuse the flag), and
 * nothing accounts for the header's other fields: bpf_csum_update makes up for
 * both. It does nothing where the NIC did not sum.
 */
#ifndef MTGATE_NAT_H
#define MTGATE_NAT_H

#include "normalise.h"
#include "parse.h"

#define AF_INET 2
#define AF_INET6 10

/* The transport's sum, and where the packet is a piece its port: it stands where no constant says. */
static __always_inline bool rewrite_transport(struct __sk_buff *skb, const struct packet *packet,
					      enum side side, const struct change *change,
					      __u64 address_from, __u64 address_to, __u64 address_flags)
{
	bool udp = packet->protocol == IPPROTO_UDP;
	__u32 sum = packet->transport + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	__be16 from = side == SOURCE ? packet->source_port : packet->destination_port;

	if (packet->share == LATER_PIECE)
		return true;
	if (bpf_l4_csum_replace(skb, sum, address_from, address_to, flags | BPF_F_PSEUDO_HDR | address_flags) ||
	    bpf_l4_csum_replace(skb, sum, from, change->port, flags | sizeof(from)))
		return false;
	return packet->share == WHOLE ||
	       !bpf_skb_store_bytes(skb, packet->transport + side * sizeof(from), &change->port, sizeof(from), 0);
}

/* The IP header, and the port of a whole packet, in place. False: there is none. */
static __always_inline bool write_ipv4(struct view view, const struct packet *packet, __u32 network, enum side side,
				       const struct change *change)
{
	const __u32 at = network + sizeof(struct iphdr);
	bool outward = side == SOURCE;
	__be32 from = ipv4_of(outward ? &packet->source : &packet->destination);
	__be32 to = ipv4_of(change->to);
	struct iphdr *ip = view.start + network;
	__be16 *ports = view.start + at, *halves = view.start + network;
	__u32 *words = view.start + network;
	__u64 sum;

	if (view.start + at + 2 * sizeof(*ports) > view.end)
		return false;
	sum = (__u64)(__u16)~ip->check + (__u32)~words[0] + (__u32)~words[1] + (__u16)~halves[4] + (__u32)~from;
	if (config.normalise & NORMALISE_TRAFFIC_CLASS)
		ip->tos &= ECN;
	if (outward)
		ip->id = identification_of(ip->id, ip->frag_off, change->number);
	ip->ttl = hops_of(packet->hops) + change->by_stack;
	sum += (__u64)words[0] + words[1] + halves[4] + to;
	ip->check = ~folded(sum);
	*(outward ? &ip->saddr : &ip->daddr) = to;
	if (packet->share == WHOLE)
		ports[side] = change->port;
	return true;
}

/* The same. `sum` gets what the header's words have changed by. */
static __always_inline bool write_ipv6(struct view view, const struct packet *packet, __u32 network, enum side side,
				       const struct change *change, __u64 *sum)
{
	const __u32 at = network + sizeof(struct ipv6hdr);
	bool outward = side == SOURCE;
	struct ipv6hdr *ip = view.start + network;
	__be16 *ports = view.start + at, *halves = view.start + network;
	__u32 *words = view.start + network;

	if (view.start + at + 2 * sizeof(*ports) > view.end)
		return false;
	*sum += (__u64)(__u32)~words[0] + (__u16)~halves[3];
	words[0] = ipv6_word_of(words[0], outward);
	ip->hop_limit = hops_of(packet->hops) + change->by_stack;
	*sum += (__u64)words[0] + halves[3];
	__builtin_memcpy(outward ? &ip->saddr : &ip->daddr, change->to, sizeof(*change->to));
	if (packet->share == WHOLE)
		ports[side] = change->port;
	return true;
}

/* Whether a packet's sum may be written in place. */
static __always_inline bool is_summed(struct view view, const struct packet *packet, __u32 network)
{
	return packet->share == WHOLE && !is_unfinished(view, packet, network);
}

static __always_inline bool rewrite_ipv4(struct __sk_buff *skb, const struct packet *packet, __u32 network,
					 enum side side, const struct change *change)
{
	__be32 from = ipv4_of(side == SOURCE ? &packet->source : &packet->destination);
	__be32 to = ipv4_of(change->to);
	struct view view = view_of(skb);
	__u64 sum = 0;

	if (is_summed(view, packet, network)) {
		if (!write_sum(view, packet, network, side, change, &sum) ||
		    !write_ipv4(view, packet, network, side, change))
			return false;
		bpf_csum_update(skb, folded(sum));
		return true;
	}
	return rewrite_transport(skb, packet, side, change, from, to, sizeof(to)) &&
	       write_ipv4(view_of(skb), packet, network, side, change);
}

static __always_inline bool rewrite_ipv6(struct __sk_buff *skb, const struct packet *packet, __u32 network,
					 enum side side, const struct change *change)
{
	const struct gate_address *from = side == SOURCE ? &packet->source : &packet->destination;
	struct view view = view_of(skb);
	__u64 sum = readdressed(from, change->to, true);

	if (is_summed(view, packet, network)) {
		if (!write_sum(view, packet, network, side, change, &sum))
			return false;
	} else if (!rewrite_transport(skb, packet, side, change, 0, folded(sum), 0)) {
		return false;
	}
	if (!write_ipv6(view_of(skb), packet, network, side, change, &sum))
		return false;
	bpf_csum_update(skb, folded(sum));
	return true;
}

/* Gives one side of a TCP or UDP packet, or of a piece of one, another
 * endpoint, and makes its headers alike. False: the packet could not be made
 * writable, and is spoilt. */
static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *packet, __u32 network,
				    enum side side, const struct change *change)
{
	/* A priority tag (VLAN 0) is of the link it came on. */
	if (skb->vlan_present && bpf_skb_vlan_pop(skb))
		return false;
	return packet->ipv6 ? rewrite_ipv6(skb, packet, network, side, change)
			    : rewrite_ipv4(skb, packet, network, side, change);
}

/* A packet that came without an Ethernet header gets an empty one: the kernel
 * fills it in on the way to the neighbour. */
static __always_inline bool put_ethernet(struct __sk_buff *skb)
{
	return !bpf_skb_change_head(skb, ETH_HLEN, 0);
}

/* To an interface, by the next hop given for it, else by the kernel's route. */
static __always_inline int hand_to(const volatile struct gate_route *route, bool ipv6)
{
	struct bpf_redir_neigh hop = {};

	if (!(route->next_hops & (ipv6 ? NEXT_HOP6 : NEXT_HOP4)))
		return bpf_redirect_neigh(route->ifindex, NULL, 0, 0);
	if (ipv6) {
		hop.nh_family = AF_INET6;
#pragma unroll
		for (int i = 0; i < 4; i++)
			hop.ipv6_nh[i] = route->next_hop6[i];
	} else {
		hop.nh_family = AF_INET;
		hop.ipv4_nh = route->next_hop4;
	}
	return bpf_redirect_neigh(route->ifindex, &hop, sizeof(hop), 0);
}

#endif
