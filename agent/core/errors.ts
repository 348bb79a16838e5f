/**
 * Faults: what must not happen, as opposed to refusals (refusals.ts), which
 * are ordinary values. One table of codes; each says what an operator does
 * about it. The management socket, the CLI, main and the log show code and
 * advice; outside nothing is told but an id, which the log has, too.
 */
export const FAULTS = {
  configInvalid: 'Correct agent.yaml at the places named.',
  rulesInvalid: 'Correct the rule files at the places named; the policy in force was not changed.',
  policyNotCompiled:
    'Cut the rule files down, or look at the memory and load of this host; the policy in force was not changed.',
  devicesInvalid: 'Correct the devices file at the places named; devices and bindings in force were not changed.',
  interfaceMissing: 'Create the interface, or name another in agent.yaml.',
  interfaceUnsuitable: 'Name an Ethernet-like interface in agent.yaml; inside, a TUN will do.',
  kernelTooOld: 'mtgate needs Linux 6.1 or newer.',
  bpffsMissing: 'Mount it: mount -t bpf bpf /sys/fs/bpf (systemd does so on a booted host), or correct gate.bpffs.',
  gateNotLoaded:
    "Read the verifier's text in the cause; is this the kernel, libbpf and gate object that belong together?",
  gateNotAttached: 'Another program holds the place of the gate: `tc filter show dev IF ingress` or `bpftool net`.',
  gateFault: 'Read the cause; the gate keeps what it had.',
  libraryMissing: 'Install it: apt-get install libbpf1 libsystemd0 nftables iproute2.',
  nftFailed: 'Read the cause; `nft list table inet mtgate` shows what is in force.',
  routeFailed: 'Read the cause; `ip route show type blackhole` shows what is in force.',
  netlinkFailed: 'Read the cause; `ip address`, `ip route` and `nft list ruleset` ask the kernel in the same way.',
  conntrackFailed:
    'Read the cause; is the module nf_conntrack_netlink there? The change of hands was not made, and can be tried again.',
  alreadyRunning: 'Stop the other agent first: one agent owns one gate.',
  storeInvalid: 'Restore the database from a copy, or move it away: live grants then end.',
  storeFailed: 'Look at the disk: space, rights, faults. No grant is opened until the store works.',
  editionsInvalid:
    'Restore editions.db from a copy; or look through the rule folder, then `mtgate apply --offline` makes it the policy.',
  editionsFailed: 'Look at the disk of store.directory: space, rights, faults. The policy in force was not changed.',
  editionUnfit:
    'Take back what was changed in agent.yaml; or correct the rule folder, then `mtgate apply --offline`, and start again.',
  deskInvalid:
    'Restore desk.db from a copy. Or move it away and start: then the servers of the rule files count for every MTC user, and all withdrawals and preferences of MTC users are forgotten, so tell them first.',
  deskFailed: 'Look at the disk of store.directory: space, rights, faults. What the MTC user asked for was not done.',
  registryInvalid:
    'Restore registry.db from a copy; or move it away, start, and import the devices anew (mtgate device import).',
  identityKeyInvalid: 'Give it 32 random bytes in hex, for the agent alone to read: openssl rand -hex 32.',
  identityKeyChanged:
    'Put the former key back (identities.key of agent.yaml, or identities.key in store.directory). If it is lost, move registry.db away, start, and import the devices anew.',
  registryFailed:
    'Look at the disk of store.directory: space, rights, faults. What was registered before an import still is.',
  denialsNotKept:
    'Look at the disk: space, rights, faults. Grants go on; the list of denials is in memory until it works.',
  outboxNotKept:
    'Look at the disk: space, rights, faults. Grants go on; what is to be pushed waits in memory, as long as there is room.',
  natRecordNotWritten:
    'Look at the disk of store.directory: space, rights, faults. Grants and flows go on; what is heard waits, as long as there is room.',
  natRecordNotRead:
    'Look at nat.db in store.directory, and whether the recorder runs: mtgate status, events natRecorder*.',
  certificateInvalid: 'Correct the file: PEM, readable by the agent, key and certificate of one pair.',
  secretInvalid: 'Write the shared secret of the RADIUS client into its file, in the first line.',
  listenFailed: 'Is the address on this host and the port free?',
  contractBroken: 'The OpenAPI file and its handlers do not match: this is a defect of mtgate.',
  socketDenied: 'Become root, or join the group that owns it: usermod -aG mtgate USER, then log in again.',
  notRunning: 'Start the agent, or name its socket with --socket.',
  internal: 'This is a defect of mtgate; please report it with the log around it.',
} as const satisfies Record<string, string>;

export type FaultCode = keyof typeof FAULTS;

/** A fault with its code from the table. `message` says what and where; the table says what to do. */
export class AgentError extends Error {
  readonly code: FaultCode;

  constructor(code: FaultCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'AgentError';
    this.code = code;
  }

  get advice(): string {
    return FAULTS[this.code];
  }
}
