/** What this machine can do, and why it cannot do the rest. */
import { availableParallelism, cpus, totalmem } from 'node:os'
import { type NativeInfo, native } from './native.js'
import { version } from './version.js'

export interface DoctorReport {
  /** Training is possible here. */
  ok: boolean
  version: string
  node: string
  /** As in `linux-x64`. */
  platform: string
  /** Undefined on another C library. */
  glibc: string | undefined
  /** Was the native addon loaded; if not, why, and what to do. */
  addon: { loaded: true } | { loaded: false; code: string; reason: string }
  /** `backend`, `bf16Backend` (that of `--precision bf16`) and `features` are empty without the addon. */
  processor: { model: string; threads: number; backend: string; bf16Backend: string; features: string[] }
  memory: { totalBytes: number; availableBytes: number }
  /** `gpu`: its name and size, `reason`: why there is none; either is empty. */
  cuda: { available: boolean; gpu: string; reason: string }
}

function probe(): { addon: DoctorReport['addon']; info?: NativeInfo } {
  try {
    return { info: native().info(), addon: { loaded: true } }
  } catch (error) {
    const { code = 'INTERNAL', message } = error as NodeJS.ErrnoException
    return { addon: { loaded: false, code, reason: message } }
  }
}

/** Looks at the machine; throws nothing. */
export function doctor(): DoctorReport {
  const { addon, info } = probe()
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } }
  // The container's limit; 0, or more than physical memory, where no limit is set.
  const limit = process.constrainedMemory() || Infinity
  return {
    ok: addon.loaded,
    version: version(),
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    glibc: header.glibcVersionRuntime,
    addon,
    processor: {
      model: cpus()[0]?.model.trim() ?? 'unknown',
      threads: availableParallelism(),
      backend: info?.cpu ?? '',
      bf16Backend: info?.cpuBf16 ?? '',
      features: info?.features ?? [],
    },
    memory: { totalBytes: Math.min(totalmem(), limit), availableBytes: process.availableMemory() },
    cuda: info?.cuda ?? { available: false, gpu: '', reason: 'the native addon is not loaded' },
  }
}

/** The report for people. */
export function describe(report: DoctorReport): string {
  const { ok, node, platform, addon, processor, memory, cuda } = report
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`
  const inBf16 = processor.bf16Backend === processor.backend ? '' : `, in bf16 ${processor.bf16Backend}`
  const features = processor.features.length > 0 ? ` (${processor.features.join(' ')})` : ''
  return [
    `lorafuse ${report.version}, Node ${node}, ${platform}${report.glibc ? `, glibc ${report.glibc}` : ''}`,
    `processor  ${processor.model}, ${processor.threads} threads`,
    `memory     ${gib(memory.availableBytes)} available of ${gib(memory.totalBytes)}`,
    `addon      ${addon.loaded ? 'loaded' : addon.reason}`,
    ...(addon.loaded ? [`backend    cpu ${processor.backend}${inBf16}${features}`] : []),
    `cuda       ${cuda.available ? cuda.gpu : `off: ${cuda.reason}`}`,
    ok ? 'Training works on this machine.' : 'Training does not work on this machine yet: see addon above.',
  ].join('\n')
}
