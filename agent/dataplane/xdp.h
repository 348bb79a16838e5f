/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The gate at XDP, in front of the stack: it finishes what is plain, and most
 * is. A packet whose grant carries it is rewritten and redirected, one for an
 * endpoint of the pool that no grant opens is dropped. All else goes on to TC,
 * which decides by the same maps and the same functions, as if XDP were not
 * there: what is no whole TCP or UDP packet, a SYN (whose options are gone
 * through), what does not fit, what is nobody's grant's, what has no known
 * neighbour, what a redirect cannot reach. So no packet has two answers, and
 * none is counted or charged twice.
 *
 * A redirect does not meet the egress hooks of TC. What they guard holds here
 * by itself: what leaves has an external address of the pool for its source;
 * and nothing is carried while any address changes hands.
 */
#ifndef MTGATE_XDP_H
#define MTGATE_XDP_H

#include <stddef.h>

#include "grants.h"
#include "nat.h"
#include "verdict.h"

/* So long an answer of the kernel's about a neighbour is taken for true: a MAC
 * that changed, or a route, is followed within a tenth of a second. */
#define HOP_LASTS_NS 100000000ULL

/* So often a packet goes by the stack all the same: only by what it sends itself
 * does the kernel learn that a neighbour is in use, asks whether it still is
 * there (RFC 4861, 7.3), and finds who has its address now. */
#define HOP_SHOWN_NS 5000000000ULL

static __always_inline struct view view_of_early(struct xdp_md *context)
{
	struct view view = { .segment = 0 };

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(view.start) : "r"(context), "i"(offsetof(struct xdp_md, data)));
	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(view.end) : "r"(context), "i"(offsetof(struct xdp_md, data_end)));
	view.length = bpf_xdp_get_buff_len(context);
	return view;
}

enum early { IS_READ, IS_MALFORMED, NOT_IP };

/* Reads the frame's network layer; a tag of a VLAN makes it not IP. */
static __always_inline enum early read_early(struct view view, struct packet *packet)
{
	const struct ethhdr *ethernet = view.start;

	if ((void *)(ethernet + 1) > view.end)
		return NOT_IP;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		return read_ipv4(view, packet, BEHIND_ETHERNET) ? IS_READ : IS_MALFORMED;
	if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		return read_ipv6(view, packet, BEHIND_ETHERNET) ? IS_READ : IS_MALFORMED;
	return NOT_IP;
}

/* A denial from which something may be learnt goes on to TC, which denies it
 * again and hands it on. */
static __always_inline int deny_early(const struct packet *packet, enum reason reason, __u32 length)
{
	if (may_sample(gate_state(), sample_part(packet)))
		return XDP_PASS;
	count(reason, 1, length);
	count(COUNTER_AT_XDP, 1, length);
	return XDP_DROP;
}

/* The neighbour by which a packet leaves: that of the next hop given for the
 * route, or of the packet's own destination. NULL: the stack must ask, or is to see one. */
static __always_inline struct gate_hop *hop_of(struct xdp_md *context, const volatile struct gate_route *route,
					       const struct gate_address *destination, bool ipv6, __u64 now)
{
	struct gate_address to = *destination, by;
	struct bpf_fib_lookup lookup;
	struct gate_hop *hop;
	bool given = route->next_hops & (ipv6 ? NEXT_HOP6 : NEXT_HOP4);
	__u32 slot;

	if (given && ipv6) {
		to.high = (__u64)route->next_hop6[1] << 32 | route->next_hop6[0];
		to.low = (__u64)route->next_hop6[3] << 32 | route->next_hop6[2];
	} else if (given) {
		to = mapped(route->next_hop4);
	}
	/* Where routes go by more than the destination, only the stack's look-up has it all. */
	if (!given && route->next_hops & (ipv6 ? ROUTE_BY_MORE6 : ROUTE_BY_MORE4))
		return NULL;
	slot = slot_among(&to, HOPS_BITS);
	hop = bpf_map_lookup_elem(&hops, &slot);
	if (!hop)
		return NULL;
	if (hop->until > now && hop->ifindex == route->ifindex && same_address(&hop->address, &to))
		return hop;
	if (now - hop->shown >= HOP_SHOWN_NS) {
		bool used = hop->shown;

		hop->shown = now;
		if (used)
			return NULL;
	}

	__builtin_memset(&lookup, 0, sizeof(lookup));
	lookup.ifindex = route->ifindex;
	if (ipv6) {
		lookup.family = AF_INET6;
		__builtin_memcpy(lookup.ipv6_dst, &to, sizeof(to));
	} else {
		lookup.family = AF_INET;
		lookup.ipv4_dst = ipv4_of(&to);
	}
	if (bpf_fib_lookup(context, &lookup, sizeof(lookup), BPF_FIB_LOOKUP_OUTPUT) != BPF_FIB_LKUP_RET_SUCCESS ||
	    lookup.ifindex != route->ifindex)
		return NULL;
	/* A next hop that is given is a neighbour, whatever routes say of it: where they
	 * have a router for it, this answer is that router's. */
	if (ipv6)
		__builtin_memcpy(&by, lookup.ipv6_dst, sizeof(by));
	else
		by = mapped(lookup.ipv4_dst);
	if (given && !same_address(&by, &to))
		return NULL;
	hop->address = to;
	hop->ifindex = route->ifindex;
	hop->until = now + HOP_LASTS_NS;
	__builtin_memcpy(hop->to, lookup.dmac, sizeof(hop->to));
	__builtin_memcpy(hop->from, lookup.smac, sizeof(hop->from));
	return hop;
}

/* Rewrites a packet, all of which has been read. False: it could not be. */
static __always_inline bool rewrite_early(struct view view, const struct packet *packet, enum side side,
					  const struct change *change, const struct gate_hop *hop)
{
	struct ethhdr *ethernet = view.start;
	__u64 unused = 0;

	if ((void *)(ethernet + 1) > view.end || !write_sum(view, packet, BEHIND_ETHERNET, side, change, &unused))
		return false;
	if (packet->ipv6) {
		if (!write_ipv6(view, packet, BEHIND_ETHERNET, side, change, &unused))
			return false;
	} else if (!write_ipv4(view, packet, BEHIND_ETHERNET, side, change)) {
		return false;
	}
	__builtin_memcpy(ethernet->h_dest, hop->to, sizeof(hop->to));
	__builtin_memcpy(ethernet->h_source, hop->from, sizeof(hop->from));
	return true;
}

/* Carries a plain packet of a grant that holds, where its neighbour is known:
 * it is charged, rewritten and sent on. `side`: DESTINATION goes inward. */
static __always_inline int carry_early(struct xdp_md *context, struct view view, const struct packet *packet,
				       struct claim *claim, enum side side, const volatile struct gate_route *route)
{
	struct gate_entry *entry = claim->entry;
	bool inward = side == DESTINATION;
	struct gate_count load = load_of(view.length, 0, packet, 0);
	struct change change = {};
	struct gate_hop *hop;
	enum reason reason;

	hop = hop_of(context, route, inward ? &entry->device : &packet->destination, packet->ipv6, claim->now);
	if (!hop)
		return XDP_PASS;
	reason = charge(claim, &load, inward);
	if (reason)
		return deny_early(packet, reason, view.length);
	change.to = inward ? &entry->device : &entry->external;
	change.port = inward ? entry->device_port : entry->external_port;
	change.number = entry->number;
	if (!rewrite_early(view, packet, side, &change, hop))
		return XDP_DROP;
	count_carried(inward ? &entry->in : &entry->out, &load, claim->limits,
		      inward ? COUNTER_GRANTED_IN : COUNTER_GRANTED_OUT);
	count(COUNTER_AT_XDP, 1, view.length);
	return bpf_redirect(route->ifindex, 0);
}

/* Whether nothing of this packet needs more than a look at its headers. */
static __always_inline bool is_plain(struct view view, const struct packet *packet, __u32 mtu,
				     const volatile struct gate_route *route)
{
	return route->next_hops & ROUTE_TAKES_FRAMES && !packet->syn && fits(0, packet, BEHIND_ETHERNET, mtu) &&
	       !is_unfinished(view, packet, BEHIND_ETHERNET);
}

SEC("xdp")
int gate_outside_xdp(struct xdp_md *context)
{
	struct view view = view_of_early(context);
	struct gate_state *now_state = gate_state();
	struct packet packet = {};
	struct claim claim = {};
	enum reason reason;

	switch (read_early(view, &packet)) {
	case NOT_IP:
		return XDP_PASS;
	case IS_MALFORMED:
		return deny_early(&packet, REASON_MALFORMED, view.length);
	case IS_READ:
		break;
	}
	if (!in_grants_pool(&packet, &packet.destination) || packet.unfit == REASON_FRAGMENT || is_icmp(&packet))
		return XDP_PASS;
	if (packet.unfit)
		return deny_early(&packet, packet.unfit, view.length);
	if (!read_ports(view, &packet, BEHIND_ETHERNET))
		return deny_early(&packet, REASON_MALFORMED, view.length);
	reason = judge_inward(&packet, TO_POOL, &claim);
	if (reason)
		return deny_early(&packet, reason, view.length);
	if (!now_state || now_state->changing || !is_plain(view, &packet, claim.route->mtu, claim.route))
		return XDP_PASS;
	return carry_early(context, view, &packet, &claim, DESTINATION, claim.route);
}

SEC("xdp")
int gate_inside_xdp(struct xdp_md *context)
{
	struct view view = view_of_early(context);
	struct gate_state *now_state = gate_state();
	__u32 ifindex = context->ingress_ifindex;
	struct packet packet = {};
	struct gate_inside *here;
	struct claim claim = {};

	here = bpf_map_lookup_elem(&inside, &ifindex);
	if (!here || read_early(view, &packet) != IS_READ || packet.unfit || !read_ports(view, &packet, BEHIND_ETHERNET))
		return XDP_PASS;
	if (!now_state || now_state->changing || judge_outward(&packet, here->realm, now_state, &claim) || !claim.entry)
		return XDP_PASS;
	if (!is_plain(view, &packet, config.outside.mtu, &config.outside) ||
	    !in_grants_pool(&packet, &claim.entry->external))
		return XDP_PASS;
	return carry_early(context, view, &packet, &claim, SOURCE, &config.outside);
}

#endif
