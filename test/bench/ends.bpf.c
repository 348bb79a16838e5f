// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What stands at the ends of the bench's paths, at XDP: who counts what
 * arrives and drops it, and the two shortest gateways there can be, which are
 * the limits of all others: one drops, one redirects whatever comes.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define DEVICE_PORT 5683
#define SERVER_PORT 40000

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

/* Shared with gateways.ts, field by field. */
struct way {
	__u32 ifindex;
	__u8 to[ETH_ALEN];
	__u8 from[ETH_ALEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct way);
} ways SEC(".maps");

/* How long stamped packets took: eight steps to each power of two of nanoseconds. */
#define STEPS 8

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 64 * STEPS);
	__type(key, __u32);
	__type(value, __u64);
} latencies SEC(".maps");

static __always_inline void note(__u64 took)
{
	__u32 power = 0, step;
	__u64 *slot;

	for (int bit = 32; bit; bit >>= 1)
		if (took >> (power + bit))
			power += bit;
	step = power * STEPS + (power < 3 ? 0 : took >> (power - 3) & (STEPS - 1));
	slot = bpf_map_lookup_elem(&latencies, &step);
	if (slot)
		*slot += 1;
}

static __always_inline void count(void)
{
	__u32 only = 0;
	__u64 *slot = bpf_map_lookup_elem(&counts, &only);

	if (slot)
		*slot += 1;
}

/* Counts what comes to a device's port, or to the server's. */
SEC("xdp")
int sink(struct xdp_md *context)
{
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	const struct ethhdr *ethernet = data;
	const struct udphdr *udp;

	if ((void *)(ethernet + 1) > end)
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IPV6))
		udp = data + sizeof(*ethernet) + sizeof(struct ipv6hdr);
	else if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		udp = data + sizeof(*ethernet) + sizeof(struct iphdr);
	else
		return XDP_PASS;
	if ((void *)(udp + 1) > end || (udp->dest != bpf_htons(DEVICE_PORT) && udp->dest != bpf_htons(SERVER_PORT)))
		return XDP_PASS;
	if (!udp->check && (void *)(udp + 1) + sizeof(__u64) <= end) {
		__u64 sent;

		__builtin_memcpy(&sent, udp + 1, sizeof(sent));
		note(bpf_ktime_get_ns() - sent);
	}
	count();
	return XDP_DROP;
}

SEC("xdp")
int drop(struct xdp_md *context)
{
	count();
	return XDP_DROP;
}

SEC("xdp")
int redirect(struct xdp_md *context)
{
	void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
	struct ethhdr *ethernet = data;
	const struct way *way;
	__u32 only = 0;

	way = bpf_map_lookup_elem(&ways, &only);
	if (!way || (void *)(ethernet + 1) > end)
		return XDP_ABORTED;
	__builtin_memcpy(ethernet->h_dest, way->to, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, way->from, ETH_ALEN);
	return bpf_redirect(way->ifindex, 0);
}

char _license[] SEC("license") = "GPL";
