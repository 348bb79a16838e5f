#!/bin/sh
# Closes this host as a gateway, and keeps it as a gateway must be: if table
# `inet mtgate` does not stand, puts a closed one there (all that would be
# forwarded is dropped); then and only then switches forwarding on, and off
# what must never be on. Where nft fails, forwarding is switched off.
#
# Run as root before the first interface is up, after whatever flushes the rule
# set (nftables.service), and every few seconds: the agent cannot write
# /proc/sys. No Node, no configuration: it must work where everything else
# fails. It never touches a table that stands: that is the running agent's.
set -u

stands() { nft list chain inet mtgate forward >/dev/null 2>&1; }

# One transaction: `create` fails where the agent was quicker, and then nothing changes.
close() {
	nft -f - <<-END
		add table inet mtgate
		create chain inet mtgate forward { type filter hook forward priority filter; policy drop; }
	END
}

# put NAME VALUE [OTHER]: sets a sysctl (a pattern: each of them) where it is neither, and tells what it was.
put() {
	# What is not there is left alone, such as IPv6 that is switched off.
	for file in $(grep -Lxs -e "$2" -e "${3:-$2}" /proc/sys/net/$1); do
		was=$(cat "$file")
		if echo "$2" >"$file"; then echo "$file was $was, is $2 now"; else failed=1; fi
	done
}

# least NAME VALUE: sets a sysctl where it is less.
least() {
	was=$(cat "/proc/sys/net/$1" 2>/dev/null) && [ "$was" -lt "$2" ] && put "$1" "$2"
}

failed=0
if stands; then
	forward=1
elif close; then
	echo "closed: put a table that drops all that would be forwarded"
	forward=1
elif stands; then
	forward=1
else
	echo "nft cannot put table inet mtgate: forwarding is switched off"
	forward=0
	failed=1
fi

# A redirect names a gateway and a way past this one; sent or heeded, both are wrong here.
put 'ipv4/conf/*/send_redirects' 0
put 'ipv4/conf/*/accept_redirects' 0
put 'ipv6/conf/*/accept_redirects' 0
# The sender does not choose the way.
put 'ipv4/conf/*/accept_source_route' 0
put 'ipv6/conf/*/accept_source_route' 0
# The pools and the devices are routed; nothing answers for them.
put 'ipv4/conf/*/proxy_arp' 0
put 'ipv6/conf/*/proxy_ndp' 0
# ARP on a link speaks only of that link's own addresses; by default Linux would also answer outside for the
# inner gateway address.
put ipv4/conf/all/arp_ignore 1 2
put ipv4/conf/all/arp_announce 2 1

# A strict check drops answers that come by another way; gate and base judge sources themselves.
put 'ipv4/conf/*/rp_filter' 0 2

# The NAT record is made of what connection tracking tells of flows that devices begin.
put netfilter/nf_conntrack_events 1
put netfilter/nf_conntrack_timestamp 1
# What stands for a device outlives a pause of its application (RFC 4787 REQ-5, RFC 5508 REQ-2).
least netfilter/nf_conntrack_udp_timeout 120
least netfilter/nf_conntrack_udp_timeout_stream 300
least netfilter/nf_conntrack_icmp_timeout 60
least netfilter/nf_conntrack_icmpv6_timeout 60

put ipv4/ip_forward $forward
put ipv6/conf/all/forwarding $forward
exit $failed
