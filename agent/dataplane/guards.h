/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The guards: what holds for packets that no grant carries, with or without a
 * base behind the gate. From outside nothing reaches the inside by its own
 * addresses, or claims to be from there; no inner address is seen outside;
 * from inside nothing reaches the gateway itself, or another device, but what
 * makes a link work and the services that the operator lists; and who holds no
 * address says nothing but what makes the link work.
 */
#ifndef MTGATE_GUARDS_H
#define MTGATE_GUARDS_H

#include "parse.h"
#include "verdict.h"

#define LINK_LOCAL_MASK bpf_htonl(0xffc00000) /* fe80::/10 */
#define LINK_LOCAL bpf_htonl(0xfe800000)

#define ICMP_UNREACHABLE 3
#define ICMP_QUENCH 4
#define ICMP_REDIRECTION 5
#define ICMP_ECHO_REQUEST 8
#define ICMP_EXCEEDED 11
#define ICMP_PARAMETER 12
#define ICMP6_INFORMATIONAL 128 /* and above; below: errors (RFC 4443, 2.1) */
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_LISTENER_REPORT 131
#define ICMP6_LISTENER_DONE 132
#define ICMP6_ROUTER_SOLICITATION 133
#define ICMP6_NEIGHBOUR_SOLICITATION 135
#define ICMP6_NEIGHBOUR_ADVERTISEMENT 136
#define ICMP6_LISTENER_REPORT_2 143
#define ICMP_HEADER 8
#define EXTENSIONS_MAX 4

/* Whether an address is of the inside, whoever knows it: nobody outside has it. */
static __always_inline bool is_inside(const struct gate_address *address)
{
	__u32 owner = owner_of(address);

	return is_of_device(owner) || owner == OWNER_GATEWAY;
}

/* Sources that no packet from a network may have. The unspecified address is
 * one (no DHCP client is served outside), but for IPv6's own start-up: duplicate
 * address detection and multicast reports (RFC 4861, 4.3; RFC 3590), link-local. */
static __always_inline bool is_impossible_source(const struct packet *packet)
{
	const struct gate_address *source = &packet->source;

	if (!packet->ipv6) {
		__u32 ipv4 = bpf_ntohl(ipv4_of(source));

		return ipv4 >> 24 == 0 || ipv4 >> 24 == 127 || ipv4 >> 28 == 14 || ipv4 == 0xffffffff;
	}
	if ((__u8)source->high == 0xff)
		return true;
	if (source->high)
		return false;
	if (!source->low)
		return (__u16)packet->destination.high != bpf_htons(0xff02);
	return source->low == bpf_cpu_to_be64(1);
}

#define NO_TYPE 256 /* of what is no ICMP message of its family */

/* Whether one admission holds for a packet; `detail`: its destination port, or its ICMP type. */
static __always_inline bool admits(const struct gate_admission *one, const struct packet *packet, __u16 detail)
{
	if (!one->mask.high || (packet->destination.high & one->mask.high) != one->destination.high ||
	    (packet->destination.low & one->mask.low) != one->destination.low)
		return false;
	if (one->any)
		return true;
	if (one->protocol != packet->protocol)
		return false;
	if (!packet->unfit)
		return one->port_low <= detail && detail <= one->port_high;
	return detail < NO_TYPE && one->types[detail >> 3 & 31] & 1 << (detail & 7);
}

/*
 * Whether an operator's filter lets this in without a grant: the base has the
 * last word on it. A fragment or a packet with options shows too little. A
 * function of its own, off the way of granted packets.
 */
static __noinline bool is_admitted(struct __sk_buff *skb, struct packet *packet)
{
	struct gate_prefix key = host_prefix(&packet->source);
	struct gate_admissions *all = bpf_map_lookup_elem(&admissions, &key);
	__u16 detail = NO_TYPE;

	if (!all)
		return false;
	if (!packet->unfit) {
		if (!read_transport(skb, packet, BEHIND_ETHERNET))
			return false;
		detail = bpf_ntohs(packet->destination_port);
	} else if (packet->unfit != REASON_PROTOCOL_NOT_CARRIED) {
		return false;
	} else if (packet->protocol == (packet->ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) {
		__u8 type;

		if (packet->transport >= packet->end || bpf_skb_load_bytes(skb, packet->transport, &type, sizeof(type)))
			return false;
		detail = type;
	}
	for (int i = 0; i < GATE_ADMISSIONS_MAX; i++)
		if (admits(&all->list[i], packet, detail))
			return true;
	return false;
}

/* From outside, to a device's own address, and no grant: only what is admitted. */
__noinline int closed(struct __sk_buff *skb, struct packet *packet)
{
	if (!packet || !is_admitted(skb, packet))
		return deny(skb, packet, REASON_REALM_DESTINATION);
	return pass(skb);
}

/* Neighbour discovery, by which a link works at all (RFC 4861: hop limit 255,
 * so never from beyond the link). Redirects and advertised routers are not
 * for a device to give. */
static __always_inline bool is_neighbour_discovery(const struct packet *packet, __u8 type)
{
	return packet->ipv6 && packet->protocol == IPPROTO_ICMPV6 && packet->hops == 255 &&
	       (type == ICMP6_ROUTER_SOLICITATION || type == ICMP6_NEIGHBOUR_SOLICITATION ||
		type == ICMP6_NEIGHBOUR_ADVERTISEMENT);
}

static __always_inline bool is_service(__u8 protocol, __be16 port)
{
#pragma unroll
	for (int i = 0; i < GATE_SERVICES_MAX; i++) {
		const volatile struct gate_service *service = &config.services[i];

		if (service->protocol && service->protocol == protocol && service->port == port)
			return true;
	}
	return false;
}

/* The type of a plain ICMP message of the packet's family. */
static __always_inline bool read_icmp_type(const struct __sk_buff *skb, const struct packet *packet, __u8 *type)
{
	return is_icmp(packet) && packet->transport < packet->end &&
	       !bpf_skb_load_bytes(skb, packet->transport, type, sizeof(*type));
}

/* Whether a device may say this to the gateway itself. A fragment or a packet
 * with options shows too little to be let in. */
static __always_inline bool is_welcome(const struct __sk_buff *skb, const struct packet *packet)
{
	__u8 echo = packet->ipv6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO_REQUEST;
	__u8 type;

	if (!packet->unfit)
		return is_service(packet->protocol, packet->destination_port);
	return read_icmp_type(skb, packet, &type) &&
	       (is_neighbour_discovery(packet, type) || (type == echo && is_service(packet->protocol, 0)));
}

static __always_inline bool is_link_local(const struct gate_address *address)
{
	return ((__u32)address->high & LINK_LOCAL_MASK) == LINK_LOCAL;
}

/*
 * What says nothing beyond the link, and honest hosts say before they hold an
 * address: neighbour discovery with the gateway, and reports of multicast
 * listeners (RFC 2710, 3; RFC 3810, 5: one hop, a router alert of 8 bytes
 * before it, from the link's own addresses or none).
 */
static __noinline bool is_link_upkeep(struct __sk_buff *skb, const struct packet *packet, __u32 owner)
{
	const struct gate_address *source = &packet->source;
	__u8 header[9], type;

	if (!packet->ipv6)
		return false;
	if (read_icmp_type(skb, packet, &type))
		return is_neighbour_discovery(packet, type) &&
		       (owner || (__u16)packet->destination.high == bpf_htons(0xff02));
	if (packet->protocol != NEXT_HOP_BY_HOP || packet->hops != 1 || (__u8)packet->destination.high != 0xff)
		return false;
	if (!is_link_local(source) && (source->high || source->low))
		return false;
	if (packet->transport + sizeof(header) > packet->end ||
	    bpf_skb_load_bytes(skb, packet->transport, header, sizeof(header)))
		return false;
	type = header[8];
	return header[0] == IPPROTO_ICMPV6 && !header[1] &&
	       (type == ICMP6_LISTENER_REPORT || type == ICMP6_LISTENER_DONE || type == ICMP6_LISTENER_REPORT_2);
}

/* Whether all on the link have an address, the gateway too: multicast, and IPv4's limited broadcast. */
static __always_inline bool is_of_all(const struct packet *packet)
{
	__u32 ipv4;

	if (packet->ipv6)
		return (__u8)packet->destination.high == 0xff;
	ipv4 = bpf_ntohl(ipv4_of(&packet->destination));
	return ipv4 >> 28 == 14 || ipv4 == 0xffffffff;
}

/* From a device, and no answer: not to the gateway, not to other devices, and
 * nothing from an address that nobody holds. A link-local destination is the
 * gateway's: there is no other neighbour. */
__noinline int guard_inside(struct __sk_buff *skb, const struct packet *packet, __u32 realm)
{
	__u32 owner;

	if (!packet)
		return deny(skb, packet, REASON_MALFORMED);
	owner = owner_of(&packet->destination);
	if (packet->ipv6 && is_link_local(&packet->destination))
		owner = OWNER_GATEWAY;
	if ((owner == OWNER_GATEWAY || owner == OWNER_HOST) && !is_welcome(skb, packet))
		return deny(skb, packet, REASON_GATEWAY_SERVICE);
	if (is_of_device(owner))
		return deny(skb, packet, REASON_DEVICE_TO_DEVICE);
	if (config.only_bound && !is_bound(realm, &packet->source, packet->ipv6) && !is_link_upkeep(skb, packet, owner))
		return deny(skb, packet, REASON_ADDRESS_UNBOUND);
	if (is_of_all(packet) && !is_welcome(skb, packet) && !is_link_upkeep(skb, packet, owner))
		return deny(skb, packet, REASON_GATEWAY_SERVICE);
	return pass(skb);
}

/* Walks extension headers to what an IPv6 packet carries. False: there is no
 * end to them that could be read. */
static __always_inline bool skip_extensions(const struct __sk_buff *skb, struct packet *packet)
{
#pragma unroll
	for (int i = 0; i <= EXTENSIONS_MAX; i++) {
		struct { __u8 next, length; __be16 offset; } header;

		if (unfit_next_header(packet->protocol) != REASON_HEADER_OPTIONS && packet->protocol != NEXT_FRAGMENT)
			return true;
		if (bpf_skb_load_bytes(skb, packet->transport, &header, sizeof(header)))
			return false;
		if (packet->protocol == NEXT_FRAGMENT) {
			packet->unfit = REASON_FRAGMENT;
			packet->later_fragment = header.offset & bpf_htons(IPV6_OFFSET);
			packet->transport += 8;
		} else {
			packet->transport += packet->protocol == IPPROTO_AH ? (header.length + 2) * 4
									    : (header.length + 1) * 8;
		}
		if (packet->later_fragment)
			return true;
		packet->protocol = header.next;
	}
	return false;
}

/* Whether an ICMP message of this type is an error about another packet. */
static __always_inline bool is_error(__u8 type, bool ipv6)
{
	if (ipv6)
		return type < ICMP6_INFORMATIONAL;
	return type == ICMP_UNREACHABLE || type == ICMP_QUENCH || type == ICMP_REDIRECTION || type == ICMP_EXCEEDED ||
	       type == ICMP_PARAMETER;
}

#endif
