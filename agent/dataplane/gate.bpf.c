// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The gate: what carries granted packets, and stops what must not pass, at TC
 * of the outside and inside interfaces. Everything else it leaves to the base
 * (nftables.ts).
 *
 * A grant is one entry (gate.h): a static mapping of an external endpoint to
 * a device's, for one remote, until an end (RFC 4787: endpoint-independent
 * mapping; address-dependent filtering, or address and port-dependent where
 * the remote's port is named). Every packet looks its entry up and nothing
 * else holds state, so a grant ends for running flows by one store to `end`.
 *
 * Invariants. A packet to the grants pool is carried or dropped, never passed.
 * No answer that belongs to a live grant is handed on as something else. What
 * cannot be read is dropped. Without a state, a heartbeat or a route: dropped.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>

#include "answers.h"
#include "fragments.h"
#include "grants.h"
#include "guards.h"
#include "icmp.h"
#include "maps.h"
#include "nat.h"
#include "parse.h"
#include "verdict.h"
#include "xdp.h"

/* What nothing carries to where it is aimed: the pool is closed, a device's
 * address open to what is admitted; where the outside knows it, it may be an
 * answer to the device, and the base has its say (gate_inside_egress). */
static __always_inline int refuse(struct __sk_buff *skb, struct packet *packet, __u32 aim,
				  enum reason reason)
{
	if (aim == TO_POOL)
		return deny(skb, packet, reason);
	return aim & TO_SEEN ? pass(skb) : closed(skb, packet);
}

/* To a device; where the outside knows its address, the egress hook is told that this may. */
static __always_inline int hand_in(struct __sk_buff *skb, const volatile struct gate_route *route, __u32 aim, bool ipv6)
{
	if (aim & TO_SEEN)
		skb->mark = GATE_LET_IN_MARK;
	return hand_to(route, ipv6);
}

/* ICMP from outside: an error about what a grant carried out, or an echo request that a filter lets in. */
__noinline int icmp_from_outside(struct __sk_buff *skb, struct packet *packet, __u32 aim)
{
	struct gate_state *now_state = gate_state();
	struct change change = {};
	struct gate_scratch *room = gate_scratch();
	struct quote *quote;
	struct gate_route *route;
	struct gate_entry *entry;
	__u32 realm, index = 0;
	__u8 type;
	__u64 now;

	if (!packet || !room)
		return deny(skb, packet, REASON_MALFORMED);
	quote = &room->quote;
	if (packet->transport + ICMP_HEADER > packet->end ||
	    bpf_skb_load_bytes(skb, packet->transport, &type, sizeof(type)))
		return refuse(skb, packet, aim, REASON_MALFORMED);
	if (!is_error(type, packet->ipv6)) {
		if (aim == TO_POOL && type == (packet->ipv6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO_REQUEST) &&
		    is_admitted(skb, packet)) {
			if (is_impossible_source(packet) || is_inside(&packet->source))
				return deny(skb, packet, REASON_SPOOFED_SOURCE);
			return answer_echo(skb, packet);
		}
		return refuse(skb, packet, aim, REASON_PROTOCOL_NOT_CARRIED);
	}
	if (!is_carried_error(type, packet->ipv6, false) || !read_quote(skb, packet, quote) ||
	    !same_address(&quote->source, &packet->destination))
		return refuse(skb, packet, aim, REASON_ERROR_NOT_CARRIED);
	entry = entry_inward(aim, packet, &quote->source, quote->source_port, &quote->destination, quote->protocol, &index);
	now = bpf_ktime_get_coarse_ns();
	if (!entry || entry->end <= now)
		return refuse(skb, packet, aim, REASON_ERROR_NOT_CARRIED);
	if (!now_state || agent_lost(now_state, now))
		return deny(skb, packet, REASON_AGENT_LOST);
	realm = entry->realm;
	route = route_of(realm);
	if (!route || class_of(&quote->destination) != entry->class_id ||
	    !is_remote(entry, &quote->destination, quote->destination_port) || is_impossible_source(packet) ||
	    is_inside(&packet->source) || !holds_sum(skb, packet))
		return deny(skb, packet, REASON_ERROR_NOT_CARRIED);
	if (packet->hops <= 1)
		return deny(skb, packet, REASON_HOP_LIMIT);
	if (!takes_icmp(index))
		return deny(skb, packet, REASON_ICMP_RATE_EXCEEDED);
	change.to = &entry->device;
	change.port = entry->device_port;
	if (!write_error(skb, packet, quote, BEHIND_ETHERNET, hops_of(packet->hops), SOURCE, &change))
		return drop(skb, REASON_MALFORMED);
	count(COUNTER_ERRORS_CARRIED, 1, skb->len);
	return hand_in(skb, route, aim, packet->ipv6);
}

SEC("tc")
int gate_outside_ingress(struct __sk_buff *skb)
{
	struct change change = {};
	struct packet packet = {};
	struct claim claim = {};
	struct gate_count load;
	__u32 aim = TO_POOL;
	enum reason reason;

	if (is_tagged_again(skb))
		return deny(skb, &packet, REASON_MALFORMED);
	if (!is_ours(skb))
		return pass(skb);
	if (!read_network(skb, &packet, BEHIND_ETHERNET))
		return deny(skb, &packet, REASON_MALFORMED);
	if (!in_grants_pool(&packet, &packet.destination)) {
		__u32 owner = ownership_of(&packet.destination);

		if (is_impossible_source(&packet) || is_inside(&packet.source))
			return deny(skb, &packet, REASON_SPOOFED_SOURCE);
		aim = owner >> OWNER_BITS;
		owner &= (1 << OWNER_BITS) - 1;
		if (owner == OWNER_SEEN)
			aim |= TO_SEEN;
		if (owner == OWNER_GATEWAY)
			return deny(skb, &packet, REASON_REALM_DESTINATION);
		if (!is_of_device(owner))
			return pass(skb);
	}
	if (packet.unfit == REASON_FRAGMENT) {
		if (read_piece(skb, &packet, FROM_OUTSIDE) != READ)
			return refuse(skb, &packet, aim, REASON_FRAGMENT);
	} else if (packet.unfit) {
		if (is_icmp(&packet))
			return icmp_from_outside(skb, &packet, aim);
		return refuse(skb, &packet, aim, packet.unfit);
	} else if (!read_transport(skb, &packet, BEHIND_ETHERNET)) {
		return refuse(skb, &packet, aim, REASON_MALFORMED);
	}

	reason = judge_inward(&packet, aim, &claim);
	if (reason)
		return is_absence(reason) ? refuse(skb, &packet, aim, reason) : deny(skb, &packet, reason);
	if (!fits(skb->gso_size, &packet, BEHIND_ETHERNET, claim.route->mtu)) {
		if (!packet.may_be_cut || packet.share != WHOLE)
			return answer_too_big(skb, &packet, BEHIND_ETHERNET, claim.route->mtu, claim.index);
		change.by_stack = true;
	}
	load = load_of(skb->len, skb->gso_size, &packet, 0);
	reason = charge(&claim, &load, true);
	if (reason)
		return deny(skb, &packet, reason);

	if (packet.share != WHOLE && !remember_piece(&packet, claim.entry->number, claim.index, claim.now)) {
		give_back(&claim, &load, true);
		return deny(skb, &packet, REASON_FRAGMENT);
	}
	if (packet.syn && !normalise_syn(skb, packet.transport, packet.payload,
					 mss_between(claim.route->mtu, config.outside.mtu, packet.ipv6)))
		return drop(skb, REASON_MALFORMED);
	change.to = &claim.entry->device;
	change.port = claim.entry->device_port;
	change.number = claim.entry->number;
	if (!rewrite(skb, &packet, BEHIND_ETHERNET, DESTINATION, &change))
		return drop(skb, REASON_MALFORMED);
	count_carried(&claim.entry->in, &load, claim.limits, COUNTER_GRANTED_IN);
	if (change.by_stack) {
		skb->mark = GATE_FRAGMENT_MARK | claim.route->ifindex;
		return TC_ACT_OK;
	}
	return hand_in(skb, claim.route, aim, packet.ipv6);
}

/* To the outside; where the device's own address shows, the egress hook is told that it may. */
static __always_inline int hand_out(struct __sk_buff *skb, const struct gate_entry *entry, bool ipv6)
{
	if (entry->flags & ENTRY_UNTRANSLATED)
		skb->mark = GATE_ANSWER_MARK;
	return hand_to(&config.outside, ipv6);
}

/* The largest segment that a realm and the outside take. */
static __always_inline __u32 mss_to_outside(__u32 realm, bool ipv6)
{
	struct gate_route *route = route_of(realm);

	return mss_between(config.outside.mtu, route ? route->mtu : 0, ipv6);
}

/*
 * ICMP from inside: an error about what a grant carried in. Its source may be
 * the device, or a router before it, which no device is: another device has
 * no say.
 */
__noinline int icmp_from_inside(struct __sk_buff *skb, const struct packet *packet, __u32 realm, __u32 network)
{
	struct gate_state *now_state = gate_state();
	struct change change = {};
	struct gate_scratch *room = gate_scratch();
	struct quote *quote;
	struct gate_entry *entry;
	__u32 index = 0;
	__u8 type;
	__u64 now;

	if (!packet || !room || !now_state)
		return deny(skb, packet, REASON_MALFORMED);
	quote = &room->quote;
	if (packet->transport + ICMP_HEADER > packet->end ||
	    bpf_skb_load_bytes(skb, packet->transport, &type, sizeof(type)) || !is_error(type, packet->ipv6) ||
	    !read_quote(skb, packet, quote))
		return guard_inside(skb, packet, realm);
	entry = entry_of_device(&quote->destination, quote->destination_port, &quote->source, quote->protocol, realm, &index);
	now = bpf_ktime_get_coarse_ns();
	if (!entry || entry->end <= now)
		return guard_inside(skb, packet, realm);
	if (agent_lost(now_state, now))
		return deny(skb, packet, REASON_AGENT_LOST);
	if (!is_carried_error(type, packet->ipv6, true) || !same_address(&packet->destination, &quote->source) ||
	    !is_remote(entry, &quote->source, quote->source_port) ||
	    (!same_address(&packet->source, &entry->device) && is_bound(realm, &packet->source, packet->ipv6)) ||
	    !holds_sum(skb, packet))
		return deny(skb, packet, REASON_ERROR_NOT_CARRIED);
	if (packet->hops <= 1)
		return deny(skb, packet, REASON_HOP_LIMIT);
	if (!takes_icmp(index))
		return deny(skb, packet, REASON_ICMP_RATE_EXCEEDED);
	change.to = &entry->external;
	change.port = entry->external_port;
	if (!write_error(skb, packet, quote, network, hops_of(packet->hops), DESTINATION, &change) ||
	    (network == AT_START && !put_ethernet(skb)))
		return drop(skb, REASON_MALFORMED);
	count(COUNTER_ERRORS_CARRIED, 1, skb->len);
	return hand_out(skb, entry, packet->ipv6);
}

/* From a device; `network`: where IP begins in the frames of this interface. */
static __always_inline int from_inside(struct __sk_buff *skb, __u32 network)
{
	struct change change = {};
	__u32 ifindex = skb->ifindex;
	struct gate_state *now_state;
	struct packet packet = {};
	struct gate_inside *here;
	struct claim claim = {};
	struct gate_count load;
	enum reason reason;

	here = bpf_map_lookup_elem(&inside, &ifindex);
	if (here && is_tagged_again(skb))
		return deny(skb, &packet, REASON_MALFORMED);
	if (!here || !is_ours(skb))
		return pass(skb);
	if (!read_network(skb, &packet, network))
		return deny(skb, &packet, REASON_MALFORMED);
	now_state = gate_state();
	if (!now_state || is_changing_hands(now_state, &packet.source, here->realm))
		return deny(skb, &packet, REASON_ADDRESS_CHANGING_HANDS);
	/* What grants never carry in is never an answer to one; the base drops
	 * it all the same, since connection tracking knows no flow for it. */
	if (packet.unfit == REASON_FRAGMENT) {
		int reading = read_piece(skb, &packet, here->realm);

		if (reading == BROKEN)
			return deny(skb, &packet, REASON_FRAGMENT);
		if (reading == OF_ANOTHER_PROTOCOL)
			return guard_inside(skb, &packet, here->realm);
	} else if (packet.unfit) {
		if (is_icmp(&packet))
			return icmp_from_inside(skb, &packet, here->realm, network);
		return guard_inside(skb, &packet, here->realm);
	} else if (!read_transport(skb, &packet, network)) {
		return deny(skb, &packet, REASON_MALFORMED);
	}

	reason = judge_outward(&packet, here->realm, now_state, &claim);
	if (reason)
		return deny(skb, &packet, reason);
	if (!claim.entry)
		return guard_inside(skb, &packet, here->realm);
	if (!fits(skb->gso_size, &packet, network, config.outside.mtu))
		return answer_too_big(skb, &packet, network, config.outside.mtu, claim.index);
	load = load_of(skb->len, skb->gso_size, &packet, network == AT_START ? ETH_HLEN : 0);
	reason = charge(&claim, &load, false);
	if (reason)
		return deny(skb, &packet, reason);

	if (packet.share != WHOLE && (!remember_piece(&packet, claim.entry->number, claim.index, claim.now) ||
				      !hide_identification(skb, &packet, claim.entry->number))) {
		give_back(&claim, &load, false);
		return deny(skb, &packet, REASON_FRAGMENT);
	}
	if (packet.syn && !normalise_syn(skb, packet.transport, packet.payload,
					 mss_to_outside(here->realm, packet.ipv6)))
		return drop(skb, REASON_MALFORMED);
	change.to = &claim.entry->external;
	change.port = claim.entry->external_port;
	change.number = claim.entry->number;
	if (!rewrite(skb, &packet, network, SOURCE, &change))
		return drop(skb, REASON_MALFORMED);
	if (network == AT_START && !put_ethernet(skb))
		return drop(skb, REASON_MALFORMED);
	count_carried(&claim.entry->out, &load, claim.limits, COUNTER_GRANTED_OUT);
	return hand_out(skb, claim.entry, packet.ipv6);
}

SEC("tc")
int gate_inside_ingress(struct __sk_buff *skb)
{
	return from_inside(skb, BEHIND_ETHERNET);
}

/* The same where frames have no Ethernet header: the TUN of a user-plane function. */
SEC("tc")
int gate_inside_ingress_bare(struct __sk_buff *skb)
{
	return from_inside(skb, AT_START);
}

/*
 * Toward devices, whoever sends, the base's tracked flows included: while an
 * address changes hands nothing reaches it that was for its former holder. And
 * where the outside knows the addresses of devices nothing of it gets in that
 * neither gate nor base has let in: with no table there it is closed.
 */
static __always_inline int to_inside(struct __sk_buff *skb, __u32 network)
{
	struct gate_state *now_state = gate_state();
	__u32 ifindex = skb->ifindex;
	struct packet packet = {};
	struct gate_inside *here;
	bool let_in = skb->mark == GATE_LET_IN_MARK;

	if (config.seen_realms && let_in)
		skb->mark = 0;
	if (!is_ours(skb) || (!config.seen_realms && (!now_state || !now_state->changing)))
		return TC_ACT_UNSPEC;
	here = bpf_map_lookup_elem(&inside, &ifindex);
	if (!here)
		return TC_ACT_UNSPEC;
	if (here->seen && !let_in && skb->ingress_ifindex == config.outside.ifindex)
		return drop(skb, REASON_REALM_DESTINATION);
	if (!now_state || !now_state->changing)
		return TC_ACT_UNSPEC;
	if (!read_network(skb, &packet, network))
		return drop(skb, REASON_MALFORMED);
	if (is_changing_hands(now_state, &packet.destination, here->realm))
		return drop(skb, REASON_ADDRESS_CHANGING_HANDS);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int gate_inside_egress(struct __sk_buff *skb)
{
	return to_inside(skb, BEHIND_ETHERNET);
}

SEC("tc")
int gate_inside_egress_bare(struct __sk_buff *skb)
{
	return to_inside(skb, AT_START);
}

SEC("tc")
int gate_outside_egress(struct __sk_buff *skb)
{
	struct packet packet = {};
	bool known, answer = skb->mark == GATE_ANSWER_MARK;
	__u32 owner;

	if (skb->mark == GATE_OWN_MARK) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	if (answer)
		skb->mark = 0;
	if (!is_ours(skb))
		return TC_ACT_UNSPEC;
	if (!read_network(skb, &packet, BEHIND_ETHERNET))
		return drop(skb, REASON_MALFORMED);
	/* What the gate has just rewritten: no need to look it up again. */
	if (!packet.unfit && in_grants_pool(&packet, &packet.source))
		return TC_ACT_UNSPEC;
	/* By a device's own address only what base or grant has let out: its peer knows it by that. Where the outside
	 * knows all of a realm's, that is so of what its devices begin, too, and with no table there nothing leaves. */
	owner = owner_of(&packet.source);
	known = answer && owner == OWNER_REALM;
	if (owner == OWNER_GATEWAY || (is_of_device(owner) && !answer))
		return drop(skb, REASON_INNER_LEAK);
	if (packet.ipv6 && !skip_extensions(skb, &packet))
		return drop(skb, REASON_MALFORMED);
	if (packet.later_fragment || packet.protocol != (packet.ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return TC_ACT_UNSPEC;
	return icmp_to_outside(skb, &packet, known);
}

/* Of the two licences, the one the kernel knows. */
char _license[] SEC("license") = "GPL";
