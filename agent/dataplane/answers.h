/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the gate says itself, to the sender of a packet: that it does not fit
 * the next link (RFC 1191, RFC 8201), in the name of the sender's peer; and the
 * answer to an echo request to an external address, where a filter lets it in.
 * All at a bounded rate.
 */
#ifndef MTGATE_ANSWERS_H
#define MTGATE_ANSWERS_H

#include "icmp.h"

#define ICMP_ECHO_REPLY 0
#define ICMP6_ECHO_REPLY 129
#define OWN_HOPS 64

/* Sends a frame back where it came from, as the gate's own word: the egress hook of
 * the outside is to leave it as it is, whose sum may be partial. */
static __always_inline int turn_back(struct __sk_buff *skb, __u32 network)
{
	__u8 link[2 * ETH_ALEN];

	skb->mark = skb->ifindex == config.outside.ifindex ? GATE_OWN_MARK : 0;
	if (network == BEHIND_ETHERNET &&
	    (bpf_skb_load_bytes(skb, 0, link, sizeof(link)) ||
	     bpf_skb_store_bytes(skb, 0, link + ETH_ALEN, ETH_ALEN, 0) ||
	     bpf_skb_store_bytes(skb, ETH_ALEN, link, ETH_ALEN, 0)))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, 0);
}

/*
 * What does not fit is not carried, and its sender is told (RFC 1191, RFC
 * 8201), by its peer as it seems: so the error shows no other address. IPv4
 * senders are told whether or not they forbade that it is cut.
 *
 * The packet may have a partial sum, and the kernel will complete it, in the
 * quote by then: so the quoted sum is made the one that this completion gives,
 * x = ~(sum of the rest + x), before the error's own is reckoned.
 */
__noinline int answer_too_big(struct __sk_buff *skb, const struct packet *packet, __u32 network, __u32 mtu, __u32 index)
{
	__u8 hops = config.hop_limit ? config.hop_limit : OWN_HOPS;
	__u32 header, own, first;
	struct gate_scratch *room;
	__be16 check;
	__u64 sum;
	bool udp;

	if (!packet || packet->share != WHOLE || !takes_icmp(index))
		return deny(skb, packet, REASON_PACKET_TOO_BIG);
	count(REASON_PACKET_TOO_BIG, 1, skb->len);
	udp = packet->protocol == IPPROTO_UDP;
	header = packet->ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	own = header + sizeof(struct error);
	first = udp ? sizeof(struct udphdr) : sizeof(struct tcphdr);
	room = gate_scratch();
	if (!room || (skb->vlan_present && bpf_skb_vlan_pop(skb)) ||
	    bpf_skb_change_tail(skb, network + header + first, 0) ||
	    bpf_skb_adjust_room(skb, own, BPF_ADJ_ROOM_MAC, 0))
		return TC_ACT_SHOT;

	__builtin_memset(room->before, 0, sizeof(struct tcphdr));
	if (bpf_skb_load_bytes(skb, network + own + header, room->before, udp ? sizeof(struct udphdr) : sizeof(struct tcphdr)))
		return TC_ACT_SHOT;
	*(__be16 *)(room->before + (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check))) = 0;
	sum = (__u32)bpf_csum_diff(NULL, 0, (__be32 *)room->before, sizeof(struct tcphdr), 0);
	check = ~folded(sum);
	check = check >> 1 | check << 15;
	if (bpf_skb_store_bytes(skb, network + own + header + (udp ? offsetof(struct udphdr, check)
								    : offsetof(struct tcphdr, check)),
				&check, sizeof(check), 0))
		return TC_ACT_SHOT;
	sum += check;

	if (packet->ipv6) {
		struct { struct ipv6hdr ip; struct error error; struct ipv6hdr quoted; } *new = (void *)room->after;

		if (bpf_skb_load_bytes(skb, network + own, &new->quoted, sizeof(new->quoted)))
			return TC_ACT_SHOT;
		begin_ipv6(&new->ip, own + header + first, &packet->destination, &packet->source, hops);
		__builtin_memset(&new->error, 0, sizeof(new->error));
		new->error.type = ICMP6_TOO_BIG;
		*(__be32 *)new->error.rest = bpf_htonl(mtu);
		sum += pseudo_header(&packet->destination, &packet->source, own + first, IPPROTO_ICMPV6);
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&new->error, sizeof(new->error) + sizeof(new->quoted), 0);
		new->error.check = ~folded(sum);
		if (bpf_skb_store_bytes(skb, network, new, sizeof(new->ip) + sizeof(new->error), 0))
			return TC_ACT_SHOT;
	} else {
		struct { struct iphdr ip; struct error error; struct iphdr quoted; } *new = (void *)room->after;

		if (bpf_skb_load_bytes(skb, network + own, &new->quoted, sizeof(new->quoted)))
			return TC_ACT_SHOT;
		begin_ipv4(&new->ip, own + header + first, &packet->destination, &packet->source, hops);
		__builtin_memset(&new->error, 0, sizeof(new->error));
		new->error.type = ICMP_UNREACHABLE;
		new->error.code = ICMP_TOO_BIG;
		*(__be16 *)(new->error.rest + 2) = bpf_htons(mtu);
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&new->error, sizeof(new->error) + sizeof(new->quoted), 0);
		new->error.check = ~folded(sum);
		if (bpf_skb_store_bytes(skb, network, new, sizeof(new->ip) + sizeof(new->error), 0))
			return TC_ACT_SHOT;
	}
	return turn_back(skb, network);
}

/* An echo request to an external address that a filter lets in: nobody is there but the gate. */
static __noinline int answer_echo(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 reply = packet->ipv6 ? ICMP6_ECHO_REPLY : ICMP_ECHO_REPLY;
	__u8 request = packet->ipv6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO_REQUEST;
	__u8 hops = config.hop_limit ? config.hop_limit : OWN_HOPS;
	__u32 at = packet->transport;
	__u64 flags = BPF_F_RECOMPUTE_CSUM;
	struct gate_scratch *room = gate_scratch();

	if (!takes_icmp(packet->source.high ^ packet->source.high >> 32 ^ packet->source.low ^ packet->source.low >> 32))
		return deny(skb, packet, REASON_ICMP_RATE_EXCEEDED);
	count(COUNTER_ECHOES_ANSWERED, 1, skb->len);
	if (!room || (skb->vlan_present && bpf_skb_vlan_pop(skb)))
		return TC_ACT_SHOT;
	if (bpf_l4_csum_replace(skb, at + offsetof(struct error, check), bpf_htons(request << 8), bpf_htons(reply << 8),
				sizeof(__be16)) ||
	    bpf_skb_store_bytes(skb, at, &reply, sizeof(reply), 0))
		return TC_ACT_SHOT;
	if (packet->ipv6) {
		const __u32 source_at = BEHIND_ETHERNET + offsetof(struct ipv6hdr, saddr);
		struct gate_address *ends = (void *)room->after;

		ends[0] = packet->destination;
		ends[1] = packet->source;
		if (bpf_skb_store_bytes(skb, source_at, ends, 2 * sizeof(*ends), flags) ||
		    bpf_skb_store_bytes(skb, BEHIND_ETHERNET + offsetof(struct ipv6hdr, hop_limit), &hops,
					sizeof(hops), flags))
			return TC_ACT_SHOT;
	} else {
		const __u32 source_at = BEHIND_ETHERNET + offsetof(struct iphdr, saddr);
		__be32 *ends = (void *)room->after;

		ends[0] = ipv4_of(&packet->destination);
		ends[1] = ipv4_of(&packet->source);
		if (bpf_l3_csum_replace(skb, BEHIND_ETHERNET + offsetof(struct iphdr, check),
					bpf_htons(packet->hops << 8), bpf_htons(hops << 8), sizeof(__be16)) ||
		    bpf_skb_store_bytes(skb, source_at, ends, 2 * sizeof(*ends), flags) ||
		    bpf_skb_store_bytes(skb, BEHIND_ETHERNET + offsetof(struct iphdr, ttl), &hops, sizeof(hops), flags))
			return TC_ACT_SHOT;
	}
	return turn_back(skb, BEHIND_ETHERNET);
}

#endif
