// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * A packet generator inside the kernel: run by BPF_PROG_TEST_RUN with
 * BPF_F_TEST_XDP_LIVE_FRAMES, it sends a frame into an interface each time it
 * is called, several million times a second: 18 bytes over UDP, which over
 * IPv4 is a frame of 64 bytes (with its checksum), over IPv6 one of 84.
 *
 * The kernel hands the same frames out again, as the gateway left them, so
 * every header is written anew. Each packet goes to a target drawn at random,
 * or comes from it; its sums are right, since a sum of 0 would spare the
 * gateway some work.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Shared with generator.ts, field by field. Addresses of IPv4 stand in their first word. */
struct plan {
	__u32 ifindex; /* where to send */
	__u32 first;   /* of the targets */
	__u32 count;
	__u32 ipv6;
	__be32 address[4];
	__u8 to[ETH_ALEN];
	__u8 from[ETH_ALEN];
	__be16 port;   /* with `address`: the one end, of which the targets are the other */
	__u16 flags;
};

#define STAMPED 1 /* the payload begins with the time of sending, and there is no sum (IPv4) */
#define OUTWARD 2 /* the targets are the sources */

struct target {
	__be32 address[4];
	__be16 port;
	__u8 pad[6]; /* an array's elements lie 8 bytes apart, or a multiple */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set by generator.ts */
	__type(key, __u32);
	__type(value, struct target);
} targets SEC(".maps");

#define PAYLOAD 18 /* zeros: they add nothing to the sum */

struct frame4 {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
	__u8 payload[PAYLOAD];
} __attribute__((packed));

struct frame6 {
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct udphdr udp;
	__u8 payload[PAYLOAD];
} __attribute__((packed));

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline void write_udp(struct udphdr *udp, const struct plan *plan, const struct target *target, __u64 sum)
{
	const __be16 length = bpf_htons(sizeof(*udp) + PAYLOAD);
	bool outward = plan->flags & OUTWARD;

	udp->source = outward ? target->port : plan->port;
	udp->dest = outward ? plan->port : target->port;
	udp->len = length;
	udp->check = ~folded(sum + bpf_htons(IPPROTO_UDP) + 2 * length + plan->port + target->port);
}

SEC("xdp")
int generate(struct xdp_md *context)
{
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	const struct target *target;
	const struct plan *plan;
	bool outward;
	__u32 key = 0;
	__u64 sum = 0;

	plan = bpf_map_lookup_elem(&plans, &key);
	if (!plan)
		return XDP_ABORTED;
	outward = plan->flags & OUTWARD;
	key = plan->first + ((__u64)bpf_get_prandom_u32() * plan->count >> 32);
	target = bpf_map_lookup_elem(&targets, &key);
	if (!target)
		return XDP_ABORTED;

	if (plan->ipv6) {
		struct frame6 *frame = data;

		if ((void *)(frame + 1) > end)
			return XDP_ABORTED;
		__builtin_memcpy(frame->ethernet.h_dest, plan->to, ETH_ALEN);
		__builtin_memcpy(frame->ethernet.h_source, plan->from, ETH_ALEN);
		frame->ethernet.h_proto = bpf_htons(ETH_P_IPV6);
		frame->ip = (struct ipv6hdr){
			.version = 6,
			.payload_len = bpf_htons(sizeof(frame->udp) + PAYLOAD),
			.nexthdr = IPPROTO_UDP,
			.hop_limit = 64,
		};
		__builtin_memcpy(outward ? &frame->ip.daddr : &frame->ip.saddr, plan->address, sizeof(plan->address));
		__builtin_memcpy(outward ? &frame->ip.saddr : &frame->ip.daddr, target->address,
				 sizeof(target->address));
		for (int i = 0; i < 4; i++)
			sum += (__u64)plan->address[i] + target->address[i];
		write_udp(data + offsetof(struct frame6, udp), plan, target, sum);
	} else {
		const __be16 total = bpf_htons(sizeof(struct iphdr) + sizeof(struct udphdr) + PAYLOAD);
		struct frame4 *frame = data;

		if ((void *)(frame + 1) > end)
			return XDP_ABORTED;
		__builtin_memcpy(frame->ethernet.h_dest, plan->to, ETH_ALEN);
		__builtin_memcpy(frame->ethernet.h_source, plan->from, ETH_ALEN);
		frame->ethernet.h_proto = bpf_htons(ETH_P_IP);
		sum = (__u64)plan->address[0] + target->address[0];
		frame->ip = (struct iphdr){
			.version = 4,
			.ihl = 5,
			.tot_len = total,
			.frag_off = bpf_htons(0x4000), /* do not fragment */
			.ttl = 64,
			.protocol = IPPROTO_UDP,
			.saddr = outward ? target->address[0] : plan->address[0],
			.daddr = outward ? plan->address[0] : target->address[0],
		};
		frame->ip.check = ~folded(sum + bpf_htons(0x4500) + total + bpf_htons(0x4000) +
					  bpf_htons(64 << 8 | IPPROTO_UDP));
		write_udp(data + offsetof(struct frame4, udp), plan, target, sum);
		if (plan->flags & STAMPED) {
			__u64 now = bpf_ktime_get_ns();

			__builtin_memcpy(frame->payload, &now, sizeof(now));
			frame->udp.check = 0;
		}
	}
	return bpf_redirect(plan->ifindex, 0);
}

char _license[] SEC("license") = "GPL";
