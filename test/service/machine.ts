/**
 * A machine of its own, for what a unit file promises: a real systemd, booted
 * on a copy-on-write view of this machine's system (boot.sh) in a namespace of
 * a test network, which is its network. All that happens in it is gone with
 * the network.
 */
import { readFileSync } from 'node:fs';
import { ROOT, until } from '../child.ts';
import type { Network, Output } from '../network.ts';

const NAMESPACES = ['--mount', '--pid', '--uts', '--ipc'];

/** A boot takes two seconds, on a machine that does nothing else. */
const BOOT_MS = 50_000;

interface RunOptions {
  readonly mayFail?: boolean;
  /** Whose network it is run in; the machine's own by default. */
  readonly namespace?: string;
}

export class Machine {
  readonly #network: Network;
  readonly #namespace: string;
  readonly #init: number;

  private constructor(network: Network, namespace: string, init: number) {
    this.#network = network;
    this.#namespace = namespace;
    this.#init = init;
  }

  /**
   * Boots, behind a script that is run in the machine's files before; resolves
   * when all that was to be started has been.
   */
  static async boot(network: Network, namespace: string, prepare = ''): Promise<Machine> {
    const command = ['unshare', ...NAMESPACES, '--fork', '--kill-child', 'sh', `${ROOT}test/service/boot.sh`];
    const child = await network.spawn(namespace, [...command, network.folder(), ROOT, prepare], { line: /^$|/ });
    const init = await until('the first process of the machine', () => firstChild(child.pid));
    const machine = new Machine(network, namespace, init);
    const up = async () => {
      const { stdout } = await machine.run('systemctl is-system-running --wait', { mayFail: true });
      return /^(running|degraded)/.test(stdout) || undefined;
    };
    await until(`the machine to be up\n${child.errors}`, up, BOOT_MS);
    return machine;
  }

  /** Runs a shell script as root of the machine. @throws Error where it fails, unless it may */
  run(script: string, { mayFail = false, namespace = this.#namespace }: RunOptions = {}): Promise<Output> {
    const within = ['nsenter', `--target=${this.#init}`, ...NAMESPACES, '--', 'env', '-i', 'HOME=/root'];
    const path = `PATH=${process.env['PATH']}`;
    return this.#network.run(namespace, [...within, path, 'sh', '-euc', `cd ${ROOT}\n${script}`], { mayFail });
  }

  /** What a command prints, trimmed. */
  async ask(script: string): Promise<string> {
    return (await this.run(script, { mayFail: true })).stdout.trim();
  }

  write(file: string, text: string): Promise<Output> {
    return this.run(`mkdir -p "$(dirname ${file})"; cat >${file} <<'END-OF-FILE'\n${text}\nEND-OF-FILE`);
  }

  /** A property of a unit, as `systemctl show` has it. */
  property(unit: string, name: string): Promise<string> {
    return this.ask(`systemctl show --value --property=${name} ${unit}`);
  }
}

function firstChild(pid: number): number | undefined {
  const [first] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ');
  return first ? Number(first) : undefined;
}
