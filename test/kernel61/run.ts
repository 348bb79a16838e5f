/**
 * `npm run test:kernel61`: Debian 12's own kernel (6.1), the oldest that
 * mtgate supports, booted under qemu, with the agent as its service from boot
 * and the packet table in it. Newer kernels take programs that 6.1 refuses,
 * and 6.1 has no TCX: what passes on a newer one proves neither.
 *
 * All instructions are emulated, so that it runs where there is no KVM. The
 * guest starts the tests by itself (guest/init); what vitest prints there
 * comes through a serial line and is printed here, failures by their names,
 * ending with the one line that CI and people look for. A guest that says
 * nothing of the kind has failed, and so has one that takes too long.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { CACHE, debian, installTools, type System, subject } from './disks.ts';

/** Four minutes were seen on a busy machine. */
const BOUND_MS = 15 * 60_000;
const CONSOLE = `${CACHE}/console.log`;
const VERDICT = /^(\d+) passed, (\d+) failed, \d+ skipped$/;

/** Mounts the disk of what is tested, and goes on with what lies there. */
const MOUNT = 'mount -t devtmpfs dev /dev && mount -t squashfs /dev/nvme0n2 /mnt';
const INIT = `init=/bin/sh -- -c "${MOUNT} && exec /mnt/test/kernel61/guest/init"`;

function machine({ kernel, disk }: System, tested: string): string[] {
  const drive = (id: string, file: string) => ['-drive', `id=${id},file=${file},if=none,format=raw,snapshot=on`];
  return [
    ...['-accel', 'tcg', '-machine', 'q35', '-cpu', 'max', '-smp', '2', '-m', '2G', '-no-reboot', '-nic', 'none'],
    ...['-display', 'none', '-monitor', 'none', '-serial', `file:${CONSOLE}`, '-serial', 'stdio'],
    // NVMe: what Debian's cloud kernel needs no module for, and so no initrd.
    ...[...drive('system', disk), ...drive('tested', tested), '-device', 'nvme,serial=kernel61'],
    ...['-device', 'nvme-ns,nsid=1,drive=system', '-device', 'nvme-ns,nsid=2,drive=tested'],
    ...['-kernel', kernel, '-append', `console=ttyS0 panic=-1 systemd.show_status=no root=/dev/nvme0n1 rw ${INIT}`],
  ];
}

/** Boots, prints what the guest prints, and returns its last line of that kind. */
async function boot(command: readonly string[]): Promise<RegExpExecArray | undefined> {
  const [file = '', ...args] = ['setpriv', '--pdeathsig', 'KILL', '--', 'qemu-system-x86_64', ...command];
  const guest = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const over = setTimeout(() => {
    process.stdout.write(`the guest was stopped after ${BOUND_MS / 1000} s\n`);
    guest.kill('SIGKILL');
  }, BOUND_MS);
  let verdict: RegExpExecArray | undefined;
  createInterface({ input: guest.stdout }).on('line', (line) => {
    const said = VERDICT.exec(line);
    if (said) verdict = said;
    else process.stdout.write(`${line}\n`);
  });
  await once(guest, 'close');
  clearTimeout(over);
  return verdict;
}

installTools();
const verdict = await boot(machine(debian(), subject()));
if (!verdict) {
  const lines = readFileSync(CONSOLE, 'utf8').split(/\r?\n/);
  process.stdout.write(
    `the guest did not come to an end of its tests; its console last said:\n${lines.slice(-40).join('\n')}\n`,
  );
}
process.stdout.write(`${verdict?.[0] ?? '0 passed, 1 failed, 0 skipped'}\n`);
process.exitCode = verdict && Number(verdict[1]) > 0 && Number(verdict[2]) === 0 ? 0 : 1;
