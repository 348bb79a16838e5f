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
 * The order of the checks is part of the contract: memory.ts keeps the same.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>

#include "guards.h"
#include "limits.h"
#include "maps.h"
#include "nat.h"
#include "parse.h"
#include "verdict.h"

static __always_inline bool in_grants_pool(const struct packet *packet, const struct gate_address *address)
{
	return packet->ipv6 ? in_ipv6_pool(address) : slot_of(address) >= 0;
}

/* The entry of an external endpoint, if one was ever opened there, and its place. */
static __always_inline struct gate_entry *entry_of_external(const struct packet *packet, __u32 *index)
{
	__u32 port = bpf_ntohs(packet->destination_port) - config.port_low;
	bool udp = packet->protocol == IPPROTO_UDP;
	struct gate_entry *entry;

	if (port >= config.port_count)
		return NULL;
	if (!packet->ipv6) {
		*index = (slot_of(&packet->destination) * 2 + udp) * config.port_count + port;
		entry = bpf_map_lookup_elem(&entries, index);
	} else {
		struct gate_endpoint key = {};
		struct gate_target *target;

		key.address = packet->destination;
		key.port = packet->destination_port;
		key.protocol = packet->protocol;
		target = bpf_map_lookup_elem(&ipv6_endpoints, &key);
		if (!target)
			return NULL;
		*index = target->index;
		entry = bpf_map_lookup_elem(&entries, index);
		if (entry && entry->number != target->number)
			return NULL;
	}
	return entry && entry->end ? entry : NULL;
}

/* The entry of the grant that a device's packet would answer to, live or not. */
static __always_inline struct gate_entry *entry_of_answer(const struct packet *packet, __u16 realm, __u32 *index)
{
	struct gate_answer key = {};
	struct gate_target *target;
	struct gate_entry *entry;

	key.class_id = class_of(&packet->destination);
	if (!key.class_id)
		return NULL;
	key.device = packet->source;
	key.realm = realm;
	key.port = packet->source_port;
	key.protocol = packet->protocol;
	target = bpf_map_lookup_elem(&answers, &key);
	if (!target)
		return NULL;
	*index = target->index;
	entry = bpf_map_lookup_elem(&entries, index);
	return entry && entry->end && entry->number == target->number ? entry : NULL;
}

/* Nobody hears any more that an address changed hands: no grant holds. */
static __always_inline bool agent_lost(const struct gate_state *now_state, __u64 now)
{
	return !now_state->heartbeat || now_state->heartbeat + now_state->orphan_grace <= now;
}

static __always_inline bool is_remote(const struct gate_entry *entry, const struct gate_address *address, __be16 port)
{
	return (entry->flags & ENTRY_ANY_REMOTE || same_address(&entry->remote, address)) &&
	       (!entry->remote_port || entry->remote_port == port);
}

/* Where there is a quota, the bytes were counted when it was charged. */
static __always_inline void count_carried(struct gate_count *grant, const struct gate_count *load, __u64 limits,
					  enum counter counter)
{
	__sync_fetch_and_add(&grant->packets, load->packets);
	if (!(limits >> LIMIT_BYTES_SHIFT))
		__sync_fetch_and_add(&grant->bytes, load->bytes);
	count(counter, load->packets, load->bytes);
}

SEC("tc")
int gate_outside_ingress(struct __sk_buff *skb)
{
	struct gate_state *now_state;
	struct packet packet = {};
	struct gate_route *route;
	struct gate_entry *entry;
	struct gate_count load;
	__u32 realm, index;
	__u64 now, limits;

	if (!is_ours(skb))
		return pass(skb);
	if (!read_network(skb, &packet, BEHIND_ETHERNET))
		return deny(skb, REASON_MALFORMED);
	if (!in_grants_pool(&packet, &packet.destination))
		return guard_outside(skb, &packet);
	if (packet.unfit)
		return deny(skb, packet.unfit);
	if (!read_transport(skb, &packet, BEHIND_ETHERNET))
		return deny(skb, REASON_MALFORMED);

	entry = entry_of_external(&packet, &index);
	if (!entry)
		return deny(skb, REASON_NO_GRANT);
	now = bpf_ktime_get_coarse_ns();
	if (entry->end <= now)
		return deny(skb, REASON_GRANT_ENDED);
	now_state = gate_state();
	if (!now_state || agent_lost(now_state, now))
		return deny(skb, REASON_AGENT_LOST);
	if (class_of(&packet.source) != entry->class_id || !is_remote(entry, &packet.source, packet.source_port))
		return deny(skb, REASON_WRONG_SOURCE);
	if (packet.hops <= 1)
		return deny(skb, REASON_HOP_LIMIT);
	realm = entry->realm;
	route = bpf_map_lookup_elem(&realms, &realm);
	if (!route)
		return deny(skb, REASON_NO_GRANT);
	load = load_of(skb, &packet, 0);
	limits = limits_of(entry);
	if (limits) {
		enum reason beyond = judge_limits(entry, &load, limits, true, now);

		if (beyond == REASON_BYTE_QUOTA_EXCEEDED)
			tell_used_up(entry, index);
		if (beyond)
			return deny(skb, beyond);
	}

	if (!rewrite(skb, &packet, BEHIND_ETHERNET, DESTINATION, &entry->device, entry->device_port))
		return drop(skb, REASON_MALFORMED);
	count_carried(&entry->in, &load, limits, COUNTER_GRANTED_IN);
	return hand_to(route, packet.ipv6);
}

static __always_inline bool is_changing_hands(const struct gate_state *now_state, const struct gate_address *address,
					      __u32 realm)
{
	struct gate_inner key;

	if (!now_state->changing)
		return false;
	key = inner_host(realm, address);
	return bpf_map_lookup_elem(&changing, &key);
}

/* From a device; `network`: where IP begins in the frames of this interface. */
static __always_inline int from_inside(struct __sk_buff *skb, __u32 network)
{
	__u32 ifindex = skb->ifindex;
	struct gate_state *now_state;
	struct packet packet = {};
	struct gate_inside *here;
	struct gate_entry *entry;
	struct gate_count load;
	__u64 now, limits;
	__u32 index;

	here = bpf_map_lookup_elem(&inside, &ifindex);
	if (!here || !is_ours(skb))
		return pass(skb);
	if (!read_network(skb, &packet, network))
		return deny(skb, REASON_MALFORMED);
	now_state = gate_state();
	if (!now_state || is_changing_hands(now_state, &packet.source, here->realm))
		return deny(skb, REASON_ADDRESS_CHANGING_HANDS);
	/* What grants never carry in is never an answer to one; the base drops
	 * it all the same, since connection tracking knows no flow for it. */
	if (packet.unfit)
		return guard_inside(skb, &packet, here->realm);
	if (!read_transport(skb, &packet, network))
		return deny(skb, REASON_MALFORMED);

	entry = entry_of_answer(&packet, here->realm, &index);
	if (!entry)
		return guard_inside(skb, &packet, here->realm);
	now = bpf_ktime_get_coarse_ns();
	if (entry->end <= now) {
		if (packet.protocol == IPPROTO_UDP && now < entry->end + now_state->tombstone &&
		    is_remote(entry, &packet.destination, packet.destination_port))
			return deny(skb, REASON_TOMBSTONE);
		return guard_inside(skb, &packet, here->realm);
	}
	if (agent_lost(now_state, now))
		return deny(skb, REASON_AGENT_LOST);
	if (!is_remote(entry, &packet.destination, packet.destination_port))
		return deny(skb, REASON_WRONG_REMOTE);
	if (packet.hops <= 1)
		return deny(skb, REASON_HOP_LIMIT);
	load = load_of(skb, &packet, network == AT_START ? ETH_HLEN : 0);
	limits = limits_of(entry);
	if (limits) {
		enum reason beyond = judge_limits(entry, &load, limits, false, now);

		if (beyond == REASON_BYTE_QUOTA_EXCEEDED)
			tell_used_up(entry, index);
		if (beyond)
			return deny(skb, beyond);
	}

	if (!rewrite(skb, &packet, network, SOURCE, &entry->external, entry->external_port))
		return drop(skb, REASON_MALFORMED);
	if (network == AT_START && !put_ethernet(skb))
		return drop(skb, REASON_MALFORMED);
	count_carried(&entry->out, &load, limits, COUNTER_GRANTED_OUT);
	return hand_to(&config.outside, packet.ipv6);
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
 * address changes hands nothing reaches it that was for its former holder.
 */
static __always_inline int to_inside(struct __sk_buff *skb, __u32 network)
{
	struct gate_state *now_state = gate_state();
	__u32 ifindex = skb->ifindex;
	struct packet packet = {};
	struct gate_inside *here;

	if (!now_state || !now_state->changing || !is_ours(skb))
		return TC_ACT_UNSPEC;
	here = bpf_map_lookup_elem(&inside, &ifindex);
	if (!here)
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
	bool answer = skb->mark == GATE_ANSWER_MARK;
	enum reason wrong;

	if (answer)
		skb->mark = 0;
	if (!is_ours(skb))
		return TC_ACT_UNSPEC;
	if (!read_network(skb, &packet, BEHIND_ETHERNET))
		return drop(skb, REASON_MALFORMED);
	/* What the gate has just rewritten: no need to look it up again. */
	if (!packet.unfit && in_grants_pool(&packet, &packet.source))
		return TC_ACT_UNSPEC;
	/* Its peer knows the device by this very address; the base has seen to it. */
	if (answer && owner_of(&packet.source) == OWNER_REALM)
		return TC_ACT_UNSPEC;
	if (is_inner(&packet.source))
		return drop(skb, REASON_INNER_LEAK);
	if (packet.ipv6 && !skip_extensions(skb, &packet))
		return drop(skb, REASON_MALFORMED);
	wrong = judge_quote(skb, &packet);
	if (wrong)
		return drop(skb, wrong);
	return TC_ACT_UNSPEC;
}

/* Of the two licences, the one the kernel knows. */
char _license[] SEC("license") = "GPL";
