import type { Address, Endpoint, Prefix } from './core/net.ts';
import type { Pool } from './core/pool.ts';
import type { Protocol, RealmName } from './core/words.ts';

/** Next hops by family; without one the kernel's own route decides. */
export interface NextHops {
  readonly ipv4?: Address;
  readonly ipv6?: Address;
}

export interface Realm {
  readonly realm: RealmName;
  readonly interface: string;
  readonly prefixes: readonly Prefix[];
  readonly nextHops: NextHops;
}

/** What devices may reach on the gateway itself; `port` is 0 for ICMP. */
export interface Service {
  readonly protocol: Protocol | 'icmp' | 'icmpv6';
  readonly port: number;
}

export interface ClientCa {
  readonly name: string;
  readonly file: string;
  readonly crl?: string;
}

export interface Config {
  /** Names this gateway in every record. */
  readonly gateway: string;
  readonly outside: { readonly interface: string; readonly nextHops: NextHops };
  readonly pools: { readonly grants: Pool; readonly egress: readonly Prefix[] };
  readonly inside: readonly Realm[];
  readonly services: readonly Service[];
  readonly api: {
    readonly listen: Endpoint;
    readonly certificate: string;
    readonly key: string;
    readonly clientCAs: readonly ClientCa[];
    readonly minimumTls: '1.2' | '1.3';
  };
  readonly management: { readonly socket: string };
  readonly metrics: { readonly listen: Endpoint };
  readonly store: { readonly directory: string };
  /** The folder of rule files. */
  readonly rules: string;
  /** The devices file. */
  readonly devices?: string;
  readonly gate: {
    readonly bpffs: string;
    readonly attach: 'auto' | 'tcx' | 'clsact';
    readonly sampledDenialsPerSecond: number;
    readonly orphanGraceSeconds: number;
    readonly udpTombstoneSeconds: number;
  };
  readonly base: { readonly nflogGroup: number; readonly deniedDestinations: readonly Prefix[] };
}
