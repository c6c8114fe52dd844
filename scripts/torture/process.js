// Processes: what they hold, and runs of the command line under limits.
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { getHeapStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { cli } from './place.js'
import { judge } from './rig.js'

/** A process without progress for this long hangs. */
const HANGS = 40_000

function status(pid) {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8')
  const number = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0)
  return { memory: number('VmRSS') * 1024, peak: number('VmHWM') * 1024, space: number('VmPeak') * 1024, threads: number('Threads') }
}

/** What a process holds: bytes of memory, its peak and address space; threads, descriptors, maps, and those of model files. */
export function holds(pid = 'self') {
  const maps = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')
  const files = maps.filter((line) => line.includes('.safetensors')).length
  return { ...status(pid), descriptors: readdirSync(`/proc/${pid}/fd`).length, maps: maps.length, files }
}

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')

/** What this process holds once garbage is collected and nothing changes any more; `handles`: bytes of those that keep values alive. */
export async function holdsAtRest() {
  let last
  for (let i = 0; i < 20; i++) {
    collect()
    await sleep(100)
    const now = holds()
    const same = last && ['threads', 'descriptors', 'files'].every((name) => now[name] === last[name])
    last = { ...now, handles: getHeapStatistics().used_global_handles_size }
    if (same && i > 3) break
  }
  return last
}

const MEBIBYTE = 2 ** 20

/** One line of what is held. */
export function shown({ memory, maps, files, threads, descriptors }) {
  return `${Math.round(memory / MEBIBYTE)} MiB, ${maps} maps (${files} of model files), ${threads} threads, ${descriptors} descriptors`
}

/**
 * What a process still holds that it did not hold before so many rounds; an empty list if nothing. `slack`: what a round may leave, bytes
 * of memory and descriptors.
 */
export function grown(before, after, rounds, slack) {
  const limits = {
    memory: before.memory + 48 * MEBIBYTE + rounds * slack.memory,
    maps: before.maps + 48 + rounds / 8,
    descriptors: before.descriptors + rounds * slack.descriptors,
    threads: before.threads,
    files: 0,
    handles: before.handles + 2 ** 16 + rounds * 2 ** 10,
  }
  return Object.entries(limits).flatMap(([name, limit]) =>
    after[name] <= limit ? [] : [`${name} from ${before[name]} to ${after[name]} in ${rounds} rounds`],
  )
}

/** Prepends what lowers limits: `{ as, fsize, nofile, nproc }`, as prlimit calls them. */
function limited(limits, command) {
  const flags = Object.entries(limits).map(([name, value]) => `--${name}=${value}`)
  return flags.length === 0 ? command : ['prlimit', ...flags, ...command]
}

/**
 * Runs the command line in a process of its own. `limits`: from its start; `later`: `{ after, limits }`, milliseconds after it began; `user`:
 * the id of the user it runs as; `shell`: a bash script in which `"$@"` is the command; `onChild`: is given the process. Resolves to how it
 * ended, what it printed and the most that it held.
 */
export function run(words, { limits = {}, later, user, shell, onChild } = {}) {
  return new Promise((resolve, reject) => {
    const inner = limited(limits, [process.execPath, cli, ...words])
    const [command, ...rest] = shell ? ['bash', '-c', shell, 'bash', ...inner] : inner
    const identity = user === undefined ? {} : { uid: user, gid: user }
    const child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'pipe'], ...identity })
    const most = { space: 0, threads: 0, descriptors: 0 }
    const began = performance.now()
    let [stdout, stderr, timedOut] = ['', '', false]
    const watch = setInterval(() => {
      try {
        const now = holds(child.pid)
        for (const name of Object.keys(most)) most[name] = Math.max(most[name], now[name])
      } catch {}
    }, 20)
    const hang = setTimeout(() => {
      timedOut = true
      child.kill('SIGKILL')
    }, HANGS)
    const lower =
      later && setTimeout(() => spawn('prlimit', ['--pid', String(child.pid), ...limited(later.limits, []).slice(1)]), later.after)
    child.stdout.on('data', (piece) => (stdout += piece))
    child.stderr.on('data', (piece) => (stderr += piece))
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearInterval(watch)
      clearTimeout(hang)
      clearTimeout(lower)
      resolve({ code, signal, stdout, stderr, timedOut, most, milliseconds: performance.now() - began })
    })
    onChild?.(child)
  })
}

/** The events that a command line with `--json` printed. */
export function eventsOf(stdout) {
  return stdout.split('\n').flatMap((line) => {
    try {
      return [JSON.parse(line)]
    } catch {
      return []
    }
  })
}

const tail = (text) => text.trim().split('\n').slice(-4).join(' | ').slice(-400)

/** What is wrong with how a command line ended; undefined if it succeeded, or said one sentence with a documented code. */
export function judgeEnd({ code, signal, stdout, stderr, timedOut }) {
  if (timedOut) return `a hang: ${tail(stderr + stdout)}`
  if (signal) return `the end by ${signal}: ${tail(stderr + stdout)}`
  if (/^\s+at .+:\d+:\d+\)?$/m.test(stderr)) return `a stack trace: ${tail(stderr)}`
  if (code === 0) return undefined
  const written = /^error (\w+): (.*)$/m.exec(stderr)
  const event = eventsOf(stdout).find(({ type }) => type === 'error')
  if (code !== 1 || (!written && !event)) return `the exit code ${code} and no sentence: ${tail(stderr + stdout)}`
  return event ? judge(event.code, event.message) : judge(written[1], written[2])
}

/** Whether a process ended because V8 or sharp's GLib found no memory for its own, which nobody can catch. */
export function endedBelow({ code, signal, stderr }) {
  const fatal = /FATAL ERROR|Fatal process (out of memory|OOM)|Fatal JavaScript|glib.*: failed to allocate memory/
  return (signal !== null || code >= 128) && fatal.test(stderr)
}
