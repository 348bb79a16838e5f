/**
 * Networks for tests, demo and bench: namespaces joined by veth pairs, each
 * with its own addresses, routes, firewall and connection tracking, so that
 * real packets of real programs cross the gateway on one machine.
 *
 * Invariants. Nothing is made in the machine's own namespace but the names in
 * /run/netns, and these carry the pid of their maker: two runs never meet.
 * What was made is taken away by close(), and without it when the process
 * ends or is interrupted; what a killed run left is taken away by the next.
 * An address answers at once: no duplicate address detection, no ICMP rate
 * limit (a refusal held back by a limit would look like silence).
 */
import { execFile, execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child, type Ready, ROOT } from './child.ts';
import { type Outside, Wire } from './wire.ts';

/** One end of a link. Addresses as `ip address add` takes them, the link's first. */
export interface End {
  readonly namespace: string;
  readonly interface: string;
  readonly addresses: readonly string[];
}

/** What to build. Routes as `ip route add` takes them. */
export interface Plan {
  readonly namespaces: Readonly<Record<string, { readonly forwards?: boolean; readonly routes?: readonly string[] }>>;
  readonly links: readonly (readonly [End, End])[];
  /** The wire on which no inner address may be seen, and the namespaces beyond it. */
  readonly outside?: Outside & { readonly namespaces: readonly string[] };
}

export interface Output {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Programs that print what they were told, and nothing that a test told them. */
const TELLS_OF_ANSWERS = ['curl', 'openssl'];

const MARK = 'mtgate-';
const live = new Set<Network>();

export class Network {
  static #serial = 0;
  readonly #id: string;
  readonly #namespaces: readonly string[];
  readonly #children = new Map<Child, string>();
  readonly #mounts: string[] = [];
  readonly #folders: string[] = [];
  readonly #outside: readonly string[];
  #wire: Wire | undefined;

  private constructor(namespaces: readonly string[], outside: readonly string[]) {
    this.#outside = outside;
    Network.#serial += 1;
    this.#id = `${MARK}${process.pid}-${Network.#serial}`;
    this.#namespaces = namespaces;
  }

  static create(plan: Plan): Network {
    sweep();
    const network = new Network(Object.keys(plan.namespaces), plan.outside?.namespaces ?? []);
    if (live.size === 0) cleanUpAtExit();
    live.add(network);
    try {
      network.#build(plan);
      network.#watch(plan);
    } catch (cause) {
      network.destroy();
      throw cause;
    }
    return network;
  }

  /** The name of a namespace for `ip netns`; it lies in /run/netns. */
  name(namespace: string): string {
    if (!this.#namespaces.includes(namespace)) throw new RangeError(`no namespace ${namespace}`);
    return `${this.#id}-${namespace}`;
  }

  /** The command that runs another inside a namespace. Unlike `ip netns exec` it hides no mount, such as bpffs. */
  inside(namespace: string, command: readonly string[]): string[] {
    return ['nsenter', `--net=/run/netns/${this.name(namespace)}`, '--', ...command];
  }

  /** Runs a command to its end. @throws Error where it fails, unless failing is what the test looks for */
  async run(
    namespace: string,
    command: readonly string[],
    options: {
      readonly input?: string;
      readonly mayFail?: boolean;
      readonly env?: Readonly<Record<string, string>>;
    } = {},
  ): Promise<Output> {
    await this.#wire?.ready();
    this.#hear(namespace, command);
    const [file = '', ...args] = this.inside(namespace, command);
    const env = { ...process.env, ...options.env };
    const output = await new Promise<Output>((resolve) => {
      const child = execFile(file, args, { cwd: ROOT, env, maxBuffer: 64 << 20 }, (error, stdout, stderr) =>
        resolve({ status: error ? (typeof error.code === 'number' ? error.code : -1) : 0, stdout, stderr }),
      );
      child.stdin?.on('error', () => {});
      child.stdin?.end(options.input ?? '');
    });
    if (this.#outside.includes(namespace) && TELLS_OF_ANSWERS.includes(command[0] ?? ''))
      this.#wire?.printed(output.stdout);
    if (output.status !== 0 && !options.mayFail)
      throw new Error(
        `${command.join(' ')} in ${namespace}: status ${output.status}\n${output.stderr}${output.stdout}`,
      );
    return output;
  }

  /** Starts a long-running program and waits until it is ready. It ends with the network. */
  async spawn(
    namespace: string,
    command: readonly string[],
    ready: Ready,
    options: { readonly env?: Readonly<Record<string, string>> } = {},
  ): Promise<Child> {
    await this.#wire?.ready();
    return await this.launch(namespace, command, options).ready(ready);
  }

  /** The same, and waits for nothing. */
  launch(
    namespace: string,
    command: readonly string[],
    options: { readonly env?: Readonly<Record<string, string>> } = {},
  ): Child {
    const child = new Child(this.inside(namespace, command), options);
    this.#children.set(child, namespace);
    return child;
  }

  /** What the kernel calls an interface: its number within the namespace, and its MAC address. */
  link(namespace: string, name: string): { readonly ifindex: number; readonly mac: string } {
    const show = ['-n', this.name(namespace), '-json', 'link', 'show', 'dev', name];
    const found = JSON.parse(execFileSync('ip', show, { encoding: 'utf8' })) as { ifindex: number; address: string }[];
    const [{ ifindex, address: mac } = { ifindex: 0, address: '' }] = found;
    return { ifindex, mac };
  }

  /** A BPF file system of its own, in a folder of its own; gone with the network. */
  bpffs(): string {
    return this.#mount('bpf');
  }

  /** A small disk, in memory. */
  disk(mebibytes: number): string {
    return this.#mount('tmpfs', '-o', `size=${mebibytes}m`);
  }

  #mount(type: string, ...options: readonly string[]): string {
    const folder = mkdtempSync(join(tmpdir(), `${this.#id}-${type}-`));
    this.#mounts.push(folder);
    execFileSync('mount', ['-t', type, ...options, type, folder]);
    return folder;
  }

  /** A folder for files; gone with the network. */
  folder(): string {
    const folder = mkdtempSync(join(tmpdir(), `${this.#id}-files-`));
    this.#folders.push(folder);
    return folder;
  }

  /**
   * From now on, until the returned function is called, packets from this inner address (absent: any) to that one
   * (absent: anybody) may be seen outside, for this reason.
   */
  show(what: { readonly source?: string; readonly to?: string }, reason: string): () => void {
    return this.#wire?.show(what, reason) ?? (() => {});
  }

  /** Stops all children, then takes everything away. @throws Error where an inner address was seen outside */
  async close(): Promise<void> {
    for (const child of this.#children.keys()) child.kill();
    // A namespace lives as long as a process in it: its interfaces would outlast the name.
    await Promise.all([...this.#children.keys()].map((child) => child.gone()));
    try {
      for (const [child, namespace] of this.#children)
        if (this.#outside.includes(namespace)) this.#wire?.printed(child.lines.filter(isNoFrame).join('\n'));
      await this.#wire?.end();
    } finally {
      this.destroy();
    }
  }

  /** The same for moments that cannot wait. */
  destroy(): void {
    live.delete(this);
    this.#wire?.kill();
    for (const child of this.#children.keys()) child.kill();
    for (const folder of this.#mounts.splice(0)) unmount(folder);
    for (const folder of this.#folders.splice(0)) rmSync(folder, { recursive: true, force: true });
    for (const namespace of this.#namespaces) remove(this.name(namespace));
  }

  #watch({ outside, links }: Plan): void {
    if (!outside) return;
    this.#wire = Wire.watch(this.#id, outside, (command) => this.inside(outside.namespace, command));
    const beyond = (end: End) => outside.namespaces.includes(end.namespace);
    const own = links.filter((ends) => !ends.some(beyond)).flat();
    for (const address of own.flatMap((end) => end.addresses)) this.#wire?.inside(address.replace(/\/.*/, ''));
  }

  /** An address that is given to something inside later. */
  #hear(namespace: string, command: readonly string[]): void {
    const [ip, object, verb, address = ''] = command;
    if (ip !== 'ip' || !object?.startsWith('addr') || !['add', 'replace'].includes(verb ?? '')) return;
    if (namespace !== 'gateway' && !this.#outside.includes(namespace)) this.#wire?.inside(address.replace(/\/.*/, ''));
  }

  #build(plan: Plan): void {
    batch(this.#namespaces.map((namespace) => `netns add ${this.name(namespace)}`));
    for (const [namespace, { forwards }] of Object.entries(plan.namespaces))
      settings(`/run/netns/${this.name(namespace)}`, forwards ?? false);
    const at = (end: End) => `${end.interface} netns ${this.name(end.namespace)}`;
    batch(plan.links.map(([a, b]) => `link add ${at(a)} type veth peer name ${at(b)}`));
    for (const [namespace, { routes = [] }] of Object.entries(plan.namespaces)) {
      const ends = plan.links.flat().filter((end) => end.namespace === namespace);
      batch(
        [
          'link set lo up',
          ...ends.map((end) => `link set ${end.interface} up`),
          ...ends.flatMap((end) => end.addresses.map((address) => addition(address, end.interface))),
          ...routes.map((route) => `route add ${route}`),
        ],
        this.name(namespace),
      );
    }
  }
}

/** A capture's program prints frames, whoever sent them. */
const isNoFrame = (line: string) => !line.startsWith('<');

function addition(address: string, device: string): string {
  return `address add ${address} dev ${device}${address.includes(':') ? ' nodad' : ''}`;
}

function batch(lines: readonly string[], namespace?: string): void {
  execFileSync('ip', [...(namespace ? ['-n', namespace] : []), '-batch', '-'], { input: lines.join('\n') });
}

/** Kernel settings of a namespace, before it has an interface: `default` then holds for each. */
function settings(path: string, forwards: boolean): void {
  const flag = forwards ? 1 : 0;
  const values: Record<string, number> = {
    'ipv4/ip_forward': flag,
    'ipv6/conf/all/forwarding': flag,
    'ipv6/conf/default/forwarding': flag,
    'ipv6/conf/all/accept_dad': 0,
    'ipv6/conf/default/accept_dad': 0,
    'ipv6/conf/default/router_solicitations': 0,
    'ipv4/conf/all/rp_filter': 0,
    'ipv4/conf/all/send_redirects': 0,
    'ipv4/conf/default/send_redirects': 0,
    'ipv4/conf/default/rp_filter': 0,
    // Of what forwards: hosts answer for all they have, be it on another link.
    ...(forwards && { 'ipv4/conf/all/arp_ignore': 1, 'ipv4/conf/all/arp_announce': 2 }),
    'ipv4/icmp_ratelimit': 0,
    'ipv6/icmp/ratelimit': 0,
  };
  // As systemd/mtgate-closed.sh has them on a gateway; they are there once the kernel tracks connections.
  const tracking = {
    events: 1,
    timestamp: 1,
    udp_timeout: 120,
    udp_timeout_stream: 300,
    icmp_timeout: 60,
    icmpv6_timeout: 60,
  };
  const script = [
    ...Object.entries(values).map(([name, value]) => `echo ${value} > /proc/sys/net/${name}`),
    ...Object.entries(tracking).map(([name, value]) => {
      const file = `/proc/sys/net/netfilter/nf_conntrack_${name}`;
      return `[ ! -e ${file} ] || echo ${value} > ${file}`;
    }),
  ];
  execFileSync('nsenter', [`--net=${path}`, '--', 'sh', '-ec', script.join('\n')]);
}

function remove(name: string): void {
  if (existsSync(`/run/netns/${name}`)) execFileSync('ip', ['netns', 'delete', name]);
}

function unmount(folder: string): void {
  // Lazily: a program that is still pinned open must not keep the folder.
  execFileSync('umount', ['--lazy', folder]);
  rmdirSync(folder);
}

/**
 * Takes away what runs left that were killed before they could. Another run may
 * sweep at this very moment: what fails is its, or waits for the next.
 */
function sweep(): void {
  const ownerless = (name: string) => {
    const pid = new RegExp(`^${MARK}(\\d+)-`).exec(name)?.[1];
    return pid !== undefined && !existsSync(`/proc/${pid}`);
  };
  const take = (away: () => void) => {
    try {
      away();
    } catch {}
  };
  if (existsSync('/run/netns'))
    for (const name of readdirSync('/run/netns').filter(ownerless)) take(() => remove(name));
  const mounted = readFileSync('/proc/self/mounts', 'utf8');
  for (const name of readdirSync(tmpdir()).filter(ownerless)) {
    const folder = join(tmpdir(), name);
    take(() => (mounted.includes(` ${folder} `) ? unmount(folder) : rmSync(folder, { recursive: true, force: true })));
  }
}

let promised = false;
function cleanUpAtExit(): void {
  if (promised) return;
  promised = true;
  const all = () => {
    for (const network of live) network.destroy();
  };
  process.once('exit', all);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      all();
      // This listener is gone by now. Who else listens decides what comes next; nobody: as ever.
      if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
    });
  }
}
