/** Times as a person at the gateway reads them: on the clock on the wall, and from now. */

/** `2026-01-01 13:00:00 CET`, in the zone of whoever asks. */
export function localTime(at: string | number): string {
  return new Date(at).toLocaleString('sv-SE', {
    ...{ year: 'numeric', month: '2-digit', day: '2-digit' },
    ...{ hour: '2-digit', minute: '2-digit', second: '2-digit', timeZoneName: 'short' },
  });
}

/** The two largest units that matter: `2 d 3 h`, `9 min 58 s`, `0.4 s`. */
export function span(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const units = [
    [Math.floor(whole / 86_400), 'd'],
    [Math.floor(whole / 3600) % 24, 'h'],
    [Math.floor(whole / 60) % 60, 'min'],
    [whole % 60, 's'],
  ] as const;
  const first = units.findIndex(([number]) => number > 0);
  const shown = units.slice(first, first + 2).filter(([number]) => number > 0);
  return shown.map(([number, unit]) => `${number} ${unit}`).join(' ');
}
