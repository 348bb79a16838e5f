/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Datagrams in pieces: the first piece shows the ports, the others only to
 * which datagram they belong. So the first, where a grant carries it, is
 * remembered with its grant, and the others follow it through the same checks
 * of the same entry. Nothing is put together and nothing is held back.
 *
 * Pieces are carried in their order, each where the last one ended. So none
 * can overlap another, whatever the receiver would make of that (RFC 1858,
 * RFC 5722): a second first piece, one from before, or one too many, and no
 * more of that datagram passes. One that came early is lost with its datagram
 * (a deviation from RFC 4787, REQ-14: that way no memory holds what may never
 * come). A first piece has all of its transport's header (RFC 7112, 5); IPv6's
 * fragment header stands alone before it.
 *
 * The memory is an LRU map, filled by packets that grants carry and by no
 * others: what a stranger sends takes no room in it.
 */
#ifndef MTGATE_FRAGMENTS_H
#define MTGATE_FRAGMENTS_H

#include "normalise.h"
#include "parse.h"

#define PIECES_LAST_NS (5 * 1000000000ULL) /* from the first to the last */
#define FRAGMENT_HEADER 8
#define DATAGRAM_MAX 65535
#define NONE_FOLLOWS (DATAGRAM_MAX + 1)
#define IPV4_MORE 0x2000
#define IPV6_MORE 1

enum reading { READ, OF_ANOTHER_PROTOCOL, BROKEN };

/* Reads a fragment: which piece of what it is, into the scratch, and its ports
 * where it has them. The packet is changed only where one could be READ. */
__noinline int read_piece(struct __sk_buff *skb, struct packet *packet, __u32 realm)
{
	struct gate_scratch *room = gate_scratch();
	__u32 at, header = sizeof(struct udphdr), length;
	struct tcphdr tcp = {};
	struct udphdr *udp = (struct udphdr *)&tcp;
	struct piece *piece;
	__u8 protocol;

	if (!room || !packet)
		return BROKEN;
	piece = &room->piece;
	__builtin_memset(piece, 0, sizeof(*piece));
	at = packet->transport;
	protocol = packet->protocol;
	if (packet->ipv6) {
		struct { __u8 next, reserved; __be16 offset; __be32 identification; } fragment;

		if (at + FRAGMENT_HEADER > packet->end || bpf_skb_load_bytes(skb, at, &fragment, sizeof(fragment)))
			return BROKEN;
		at += FRAGMENT_HEADER;
		protocol = fragment.next;
		piece->of.identification = fragment.identification;
		piece->offset = bpf_ntohs(fragment.offset) & IPV6_OFFSET;
		piece->more = bpf_ntohs(fragment.offset) & IPV6_MORE;
	} else {
		struct { __be16 identification, offset; } fragment;

		if (bpf_skb_load_bytes(skb, at - sizeof(struct iphdr) + offsetof(struct iphdr, id), &fragment,
				       sizeof(fragment)))
			return BROKEN;
		piece->of.identification = fragment.identification;
		piece->offset = (bpf_ntohs(fragment.offset) & IPV4_OFFSET) * 8;
		piece->more = bpf_ntohs(fragment.offset) & IPV4_MORE;
	}
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return OF_ANOTHER_PROTOCOL;
	length = packet->end - at;
	piece->end = piece->offset + length;
	if (!length || piece->end > DATAGRAM_MAX || (piece->more && length % 8))
		return BROKEN;
	if (!piece->offset) {
		if (protocol == IPPROTO_TCP) {
			if (length < sizeof(tcp) || bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)))
				return BROKEN;
			header = tcp.doff * 4;
			if (header < sizeof(tcp))
				return BROKEN;
		} else if (length < sizeof(*udp) || bpf_skb_load_bytes(skb, at, udp, sizeof(*udp)) ||
			   bpf_ntohs(udp->len) < header || (!piece->more && bpf_ntohs(udp->len) > length)) {
			return BROKEN;
		}
		if (header > length)
			return BROKEN;
		packet->source_port = tcp.source;
		packet->destination_port = tcp.dest;
		packet->syn = protocol == IPPROTO_TCP && tcp.syn;
	}
	packet->share = piece->offset ? LATER_PIECE : FIRST_PIECE;
	packet->protocol = protocol;
	packet->transport = at;
	packet->payload = at + (piece->offset ? 0 : header);
	piece->of.source = packet->source;
	piece->of.destination = packet->destination;
	piece->of.realm = realm;
	piece->of.protocol = protocol;
	return READ;
}

/* What is known of a piece's datagram, if it still counts. */
static __always_inline struct gate_pieces *pieces_of(const struct piece *piece, __u64 now)
{
	struct gate_pieces *known = bpf_map_lookup_elem(&fragments, &piece->of);

	return known && known->since + PIECES_LAST_NS > now ? known : NULL;
}

/* The entry that a later piece follows its first one to; the packet gets the
 * ports of the first. NULL: it follows none, or not there. */
static __always_inline struct gate_entry *entry_of_piece(struct packet *packet, __u64 now, __u32 *index)
{
	struct gate_scratch *room = gate_scratch();
	struct gate_pieces *known;
	struct gate_entry *entry;
	struct piece *piece;

	if (!room)
		return NULL;
	piece = &room->piece;
	known = pieces_of(piece, now);
	if (!known)
		return NULL;
	if (known->next != piece->offset) {
		if (piece->offset < known->next)
			known->next = NONE_FOLLOWS;
		return NULL;
	}
	packet->source_port = known->source_port;
	packet->destination_port = known->destination_port;
	*index = known->index;
	entry = bpf_map_lookup_elem(&entries, index);
	return entry && entry->end && entry->number == known->number ? entry : NULL;
}

/* A piece that its grant carries, just before it is rewritten. False: a second
 * first piece, which ends what was begun. */
__noinline int remember_piece(const struct packet *packet, __u64 number, __u32 index, __u64 now)
{
	struct gate_scratch *room = gate_scratch();
	struct gate_pieces fresh = {}, *known;
	struct piece *piece;

	if (!room || !packet)
		return false;
	piece = &room->piece;
	known = pieces_of(piece, now);
	if (packet->share == LATER_PIECE) {
		if (known)
			known->next = piece->end;
		if (!piece->more) /* the identification may come again */
			bpf_map_delete_elem(&fragments, &piece->of);
		return true;
	}
	if (known && known->number == number) {
		known->next = NONE_FOLLOWS;
		return false;
	}
	if (!piece->more) /* IPv6 has fragments that are whole (RFC 6946) */
		return true;
	fresh.number = number;
	fresh.since = now;
	fresh.index = index;
	fresh.next = piece->end;
	fresh.source_port = packet->source_port;
	fresh.destination_port = packet->destination_port;
	return !bpf_map_update_elem(&fragments, &piece->of, &fresh, BPF_ANY);
}

/* The identification of an IPv6 piece from a device; that of IPv4 stands in its header (nat.h). */
static __always_inline bool hide_identification(struct __sk_buff *skb, const struct packet *packet, __u64 grant)
{
	__u32 at = packet->transport - sizeof(__be32);
	__be32 identification;

	if (!packet->ipv6 || !(config.normalise & NORMALISE_IDENTIFICATION))
		return true;
	if (bpf_skb_load_bytes(skb, at, &identification, sizeof(identification)))
		return false;
	identification = bpf_htonl(permuted(bpf_ntohl(identification), 16, grant));
	return !bpf_skb_store_bytes(skb, at, &identification, sizeof(identification), BPF_F_RECOMPUTE_CSUM);
}

#endif
