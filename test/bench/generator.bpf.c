// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * A packet generator inside the kernel: run by BPF_PROG_TEST_RUN with
 * BPF_F_TEST_XDP_LIVE_FRAMES, it sends a frame of 64 bytes (with its checksum)
 * into an interface each time it is called, several million times a second.
 *
 * The kernel hands the same frames out again, as the gateway left them, so
 * every header is written anew. Each packet goes to a target drawn at random;
 * its sums are right, since a sum of 0 would spare the gateway some work.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Shared with generator.ts, field by field. */
struct plan {
	__u32 ifindex; /* where to send */
	__u32 first;   /* of the targets */
	__u32 count;
	__be32 source;
	__be16 source_port;
	__u8 to[ETH_ALEN];
	__u8 from[ETH_ALEN];
	__u8 pad[2];
};

struct target {
	__be32 address;
	__be16 port;
	__be16 pad;
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

struct frame {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
	__u8 payload[18]; /* zeros: they add nothing to the sum */
} __attribute__((packed));

static __always_inline __u32 sum_of(__be32 address)
{
	return (address & 0xffff) + (address >> 16);
}

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

SEC("xdp")
int generate(struct xdp_md *context)
{
	struct frame *frame = (void *)(long)context->data;
	const __be16 length = bpf_htons(sizeof(*frame) - offsetof(struct frame, udp));
	const __be16 total = bpf_htons(sizeof(*frame) - offsetof(struct frame, ip));
	const struct target *target;
	const struct plan *plan;
	__u32 key = 0, sum;

	if ((void *)(frame + 1) > (void *)(long)context->data_end)
		return XDP_ABORTED;
	plan = bpf_map_lookup_elem(&plans, &key);
	if (!plan)
		return XDP_ABORTED;
	key = plan->first + ((__u64)bpf_get_prandom_u32() * plan->count >> 32);
	target = bpf_map_lookup_elem(&targets, &key);
	if (!target)
		return XDP_ABORTED;

	__builtin_memcpy(frame->ethernet.h_dest, plan->to, ETH_ALEN);
	__builtin_memcpy(frame->ethernet.h_source, plan->from, ETH_ALEN);
	frame->ethernet.h_proto = bpf_htons(ETH_P_IP);

	sum = sum_of(plan->source) + sum_of(target->address);
	frame->ip = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tot_len = total,
		.frag_off = bpf_htons(0x4000), /* do not fragment */
		.ttl = 64,
		.protocol = IPPROTO_UDP,
		.saddr = plan->source,
		.daddr = target->address,
	};
	frame->ip.check = ~folded(sum + bpf_htons(0x4500) + total + bpf_htons(0x4000) + bpf_htons(64 << 8 | IPPROTO_UDP));

	frame->udp.source = plan->source_port;
	frame->udp.dest = target->port;
	frame->udp.len = length;
	frame->udp.check = ~folded(sum + bpf_htons(IPPROTO_UDP) + 2 * length + plan->source_port + target->port);
	return bpf_redirect(plan->ifindex, 0);
}

char _license[] SEC("license") = "GPL";
