/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Carrying: one end of a packet is rewritten, its hop limit lowered, and it
 * is handed to the other side's interface.
 *
 * Addresses, ports, hop limit and the IPv4 header's sum are written in place
 * (the sum by RFC 1624). The transport's sum goes through the kernel's helper,
 * which alone knows whether it is complete, partial (offloaded: only the
 * pseudo header is in it, so the port must not be) or none (UDP over IPv4).
 * The helper also keeps skb->csum of a packet summed by the NIC; for IPv6 it
 * reckons as for IPv4, where the header's own sum hides a changed address
 * (Linux 6.16 has a flag for it, older ones refuse the flag), and nothing
 * accounts for the hop limit: bpf_csum_update makes up for both.
 */
#ifndef MTGATE_NAT_H
#define MTGATE_NAT_H

#include "parse.h"

#define AF_INET 2
#define AF_INET6 10

enum side { SOURCE, DESTINATION };

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* The header's sum after an address and the TTL (its word's first byte) have changed. */
static __always_inline __u16 ipv4_sum(__u16 check, __be32 from, __be32 to)
{
	__u64 sum = (__u16)~check;

	sum += (__u32)~from;
	sum += to;
	sum += (__u16)~bpf_htons(0x0100);
	return ~folded(sum);
}

static __always_inline bool rewrite_ipv4(struct __sk_buff *skb, const struct packet *packet, __u32 network,
					 enum side side, const struct gate_address *address, __be16 port)
{
	const __u32 at = network + sizeof(struct iphdr);
	bool udp = packet->protocol == IPPROTO_UDP;
	__u32 sum = at + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	__be32 from = ipv4_of(side == SOURCE ? &packet->source : &packet->destination);
	__be16 from_port = side == SOURCE ? packet->source_port : packet->destination_port;
	__be32 to = ipv4_of(address);
	struct iphdr *ip;
	__be16 *ports;
	void *data;

	if (bpf_l4_csum_replace(skb, sum, from, to, flags | BPF_F_PSEUDO_HDR | sizeof(to)))
		return false;
	if (bpf_l4_csum_replace(skb, sum, from_port, port, flags | sizeof(port)))
		return false;
	data = frame_start(skb);
	if (data + at + 2 * sizeof(port) > frame_end(skb))
		return false;
	ip = data + network;
	ports = data + at;
	ip->check = ipv4_sum(ip->check, from, to);
	ip->ttl--;
	*(side == SOURCE ? &ip->saddr : &ip->daddr) = to;
	ports[side] = port;
	return true;
}

static __always_inline bool rewrite_ipv6(struct __sk_buff *skb, const struct packet *packet, __u32 network,
					 enum side side, const struct gate_address *address, __be16 port)
{
	const __u32 at = network + sizeof(struct ipv6hdr);
	bool udp = packet->protocol == IPPROTO_UDP;
	__u32 sum = at + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	struct gate_address from = side == SOURCE ? packet->source : packet->destination;
	struct gate_address to = *address;
	__be16 from_port = side == SOURCE ? packet->source_port : packet->destination_port;
	__u32 change = bpf_csum_diff((__be32 *)&from, sizeof(from), (__be32 *)&to, sizeof(to), 0);
	struct ipv6hdr *ip;
	__be16 *ports;
	void *data;

	if (bpf_l4_csum_replace(skb, sum, 0, change, flags | BPF_F_PSEUDO_HDR))
		return false;
	if (bpf_l4_csum_replace(skb, sum, from_port, port, flags | sizeof(port)))
		return false;
	/* A carry is 1 in this arithmetic, and nothing unless the NIC summed the packet. */
	bpf_csum_update(skb, folded((__u64)change + (__u16)~bpf_htons(1)));
	data = frame_start(skb);
	if (data + at + 2 * sizeof(port) > frame_end(skb))
		return false;
	ip = data + network;
	ports = data + at;
	ip->hop_limit--;
	__builtin_memcpy(side == SOURCE ? &ip->saddr : &ip->daddr, &to, sizeof(to));
	ports[side] = port;
	return true;
}

/* Gives one side of a plain TCP or UDP packet another endpoint, and takes one
 * hop. False: the packet could not be made writable, and is spoilt. */
static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *packet, __u32 network,
				    enum side side, const struct gate_address *address, __be16 port)
{
	/* A priority tag (VLAN 0) is of the link it came on. */
	if (skb->vlan_present && bpf_skb_vlan_pop(skb))
		return false;
	return packet->ipv6 ? rewrite_ipv6(skb, packet, network, side, address, port)
			    : rewrite_ipv4(skb, packet, network, side, address, port);
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
