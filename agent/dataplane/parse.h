/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A frame, read into `struct packet` by value: helpers that move the packet
 * invalidate pointers into it, but not what was read.
 *
 * Reading goes in two steps, because the guards need the first only:
 * read_network (any IP packet, fragments included), then read_transport
 * (plain TCP or UDP). Both are told where IP begins, a constant of the program:
 * behind an Ethernet header, or at the start where an interface has none (TUN).
 * Both are strict: a length that contradicts the frame or
 * another length is malformed, whoever the packet is for. An IPv6 packet with
 * an IPv4-mapped address is too: such addresses are not for the wire (RFC
 * 4291, 2.5.5.2), and in the maps they would pass for IPv4.
 */
#ifndef MTGATE_PARSE_H
#define MTGATE_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "maps.h"

/* Where IP begins in the frames of an interface. */
#define BEHIND_ETHERNET ETH_HLEN
#define AT_START 0

#define IPV4_DONT_FRAGMENT 0x4000
#define IPV4_FRAGMENT 0x3fff /* more fragments, or an offset */
#define IPV4_OFFSET 0x1fff
#define IPV6_OFFSET 0xfff8

/* IPv6 extension headers (IANA), apart from those in linux/in.h. */
#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_DESTINATION 60
#define NEXT_MOBILITY 135
#define NEXT_HIP 139
#define NEXT_SHIM6 140

/* Of a datagram, what a packet is. */
enum share { WHOLE, FIRST_PIECE, LATER_PIECE };

struct packet {
	struct gate_address source;
	struct gate_address destination;
	__u32 transport; /* where the header after IP's fixed part and options begins, from the frame's start */
	__u32 payload;   /* where the transport's payload begins (read_transport) */
	__u32 end;       /* where the IP packet ends: behind it a frame may be padded */
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;   /* IPv6: the first next header */
	__u8 hops;
	bool ipv6;
	bool later_fragment; /* IPv4: has no transport header */
	bool may_be_cut; /* IPv4 without DF */
	bool syn;        /* TCP: a SYN, so its options count (read_transport) */
	__u8 share;      /* enum share, of what a grant may carry (fragments.h) */
	enum reason unfit;   /* why no grant carries it, or REASON_NONE: plain TCP or UDP */
};

/* IP, and of this interface: a VLAN's packets belong to the VLAN's interface,
 * but VLAN 0 is only a priority (802.1Q, 9.6). */
static __always_inline bool is_ours(const struct __sk_buff *skb)
{
	if (skb->vlan_present && (skb->vlan_tci & 0xfff))
		return false;
	return skb->protocol == bpf_htons(ETH_P_IP) || skb->protocol == bpf_htons(ETH_P_IPV6);
}

/* Tagged twice, and the outer tag is only a priority: the stack takes off both,
 * and behind this hook takes what is within for this interface's own. */
static __always_inline bool is_tagged_again(const struct __sk_buff *skb)
{
	return skb->vlan_present && !(skb->vlan_tci & 0xfff) &&
	       (skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD));
}

/* A frame as a hook shows it. Pointers got before a helper that moves the packet are void. */
struct view {
	void *start; /* of what can be read in place, and where that ends */
	void *end;
	__u32 length;  /* of the whole frame */
	__u32 segment; /* bytes of each packet's payload, where one frame stands for several (GRO); 0: it does not */
};

/* Where the frame begins and ends in memory. As assembly, or the compiler
 * merges these loads as the 32 bit values that the type says they are, and the
 * verifier sees pointers no more. */
static __always_inline void *frame_start(const struct __sk_buff *skb)
{
	void *start;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(start) : "r"(skb), "i"(offsetof(struct __sk_buff, data)));
	return start;
}

static __always_inline void *frame_end(const struct __sk_buff *skb)
{
	void *end;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(end) : "r"(skb), "i"(offsetof(struct __sk_buff, data_end)));
	return end;
}

static __always_inline struct view view_of(const struct __sk_buff *skb)
{
	return (struct view){ frame_start(skb), frame_end(skb), skb->len, skb->gso_size };
}

/* Makes the first bytes readable in place; who reads them compares with the end all the same. */
static __always_inline bool pull(struct __sk_buff *skb, __u32 length)
{
	if (frame_start(skb) + length <= frame_end(skb))
		return true;
	return !bpf_skb_pull_data(skb, length);
}

static __always_inline bool read_ipv4(struct view view, struct packet *packet, __u32 network)
{
	const __u32 fixed = network + sizeof(struct iphdr);
	const struct iphdr *ip;
	__u32 header, total;

	if (view.start + fixed > view.end)
		return false;
	ip = view.start + network;

	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	/* Coalesced past 64 KiB the length no longer fits, and is 0 (BIG TCP). */
	if (!total && view.segment)
		total = view.length - network;
	if (ip->version != 4 || header < sizeof(*ip) || total < header || network + total > view.length)
		return false;

	packet->source = mapped(ip->saddr);
	packet->destination = mapped(ip->daddr);
	packet->transport = network + header;
	packet->end = network + total;
	packet->protocol = ip->protocol;
	packet->hops = ip->ttl;
	packet->later_fragment = ip->frag_off & bpf_htons(IPV4_OFFSET);
	packet->may_be_cut = !(ip->frag_off & bpf_htons(IPV4_DONT_FRAGMENT));

	if (header > sizeof(*ip))
		packet->unfit = REASON_HEADER_OPTIONS;
	else if (ip->frag_off & bpf_htons(IPV4_FRAGMENT))
		packet->unfit = REASON_FRAGMENT;
	else if (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP)
		packet->unfit = REASON_PROTOCOL_NOT_CARRIED;
	return true;
}

static __always_inline enum reason unfit_next_header(__u8 next)
{
	switch (next) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return REASON_NONE;
	case NEXT_FRAGMENT:
		return REASON_FRAGMENT;
	case NEXT_HOP_BY_HOP:
	case NEXT_ROUTING:
	case NEXT_DESTINATION:
	case IPPROTO_AH:
	case NEXT_MOBILITY:
	case NEXT_HIP:
	case NEXT_SHIM6:
		return REASON_HEADER_OPTIONS;
	default:
		return REASON_PROTOCOL_NOT_CARRIED;
	}
}

static __always_inline bool read_ipv6(struct view view, struct packet *packet, __u32 network)
{
	const __u32 fixed = network + sizeof(struct ipv6hdr);
	const struct ipv6hdr *ip;

	if (view.start + fixed > view.end)
		return false;
	ip = view.start + network;

	packet->transport = fixed;
	packet->end = fixed + bpf_ntohs(ip->payload_len);
	if (ip->version != 6 || packet->end > view.length)
		return false;

	__builtin_memcpy(&packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip->daddr, sizeof(packet->destination));
	if (is_mapped(&packet->source) || is_mapped(&packet->destination))
		return false;
	packet->ipv6 = true;
	packet->protocol = ip->nexthdr;
	packet->hops = ip->hop_limit;
	packet->unfit = unfit_next_header(ip->nexthdr);
	return true;
}

/* False: malformed. `packet` must be zero. */
static __always_inline bool read_network(struct __sk_buff *skb, struct packet *packet, __u32 network)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return pull(skb, network + sizeof(struct iphdr)) && read_ipv4(view_of(skb), packet, network);
	return pull(skb, network + sizeof(struct ipv6hdr)) && read_ipv6(view_of(skb), packet, network);
}

/* Where the transport's header begins in a packet that is not unfit. */
static __always_inline __u32 transport_of(const struct packet *packet, __u32 network)
{
	return network + (packet->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
}

/* The ports, where they can be read in place. False: malformed. */
static __always_inline bool read_ports(struct view view, struct packet *packet, __u32 network)
{
	bool udp = packet->protocol == IPPROTO_UDP;
	__u32 at = transport_of(packet, network);
	__u32 fixed = at + (udp ? sizeof(struct udphdr) : sizeof(struct tcphdr));

	if (fixed > packet->end)
		return false;
	if (udp) {
		const struct udphdr *header = view.start + at;

		if ((void *)(header + 1) > view.end)
			return false;
		if (bpf_ntohs(header->len) < sizeof(*header) || at + bpf_ntohs(header->len) > packet->end)
			return false;
		packet->source_port = header->source;
		packet->destination_port = header->dest;
		packet->payload = fixed;
	} else {
		const struct tcphdr *header = view.start + at;

		if ((void *)(header + 1) > view.end)
			return false;
		packet->payload = at + header->doff * 4;
		if (packet->payload < fixed || packet->payload > packet->end)
			return false;
		packet->source_port = header->source;
		packet->destination_port = header->dest;
		packet->syn = header->syn;
	}
	return true;
}

/* Plain ICMP of its family: no fragment, no options. */
static __always_inline bool is_icmp(const struct packet *packet)
{
	return packet->unfit == REASON_PROTOCOL_NOT_CARRIED &&
	       packet->protocol == (packet->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* Whether a packet fits a link, or each segment of a coalesced one does. */
static __always_inline bool fits(__u32 segment, const struct packet *packet, __u32 network, __u32 mtu)
{
	return !mtu || (segment ? packet->payload + segment : packet->end) - network <= mtu;
}

/* The ports of a packet that is not unfit. False: malformed. */
static __always_inline bool read_transport(struct __sk_buff *skb, struct packet *packet, __u32 network)
{
	bool udp = packet->protocol == IPPROTO_UDP;
	__u32 at = transport_of(packet, network);

	return pull(skb, at + (udp ? sizeof(struct udphdr) : sizeof(struct tcphdr))) &&
	       read_ports(view_of(skb), packet, network);
}

#endif
