/** Faults put into the CUDA sources one at a time: each must make the native tests fail on the emulator. */

export interface Mutation {
  what: string
  /** Of native/cuda. */
  file: string
  /** Occurs once in the file, or once after `after`. */
  from: string
  to: string
  after?: string
  /** The translation unit that is compiled with it. */
  unit: string
  /** Native tests whose name contains this run. */
  cases: string
}

const gemm = { unit: 'matmul.cu', cases: 'mat_mul' }
const weightGrad = { file: 'weight_grad.cu', unit: 'weight_grad.cu', cases: 'weight_grad' }
const conv = { unit: 'conv.cu', cases: 'conv2d' }
const convWeightGrad = { file: 'conv_weight_grad.cu', unit: 'conv_weight_grad.cu', cases: 'conv_weight_grad' }
const lora = { unit: 'lora.cu', cases: 'lora_mat_mul' }
const geglu = { file: 'epilogue.cuh', unit: 'lora.cu', cases: 'geglu' }
const attention = { file: 'attention.cu', unit: 'attention.cu', cases: 'attention' }
const attentionGrad = { file: 'attention_grad.cu', unit: 'attention_grad.cu', cases: 'attention_grad' }
const groupNorm = { file: 'group_norm.cu', unit: 'group_norm.cu', cases: 'group_norm' }

const barriers: Mutation[] = [
  {
    what: 'no barrier between the steps of a product',
    file: 'main_loop.cuh',
    after: 'if (more) store(shared.chunks[(i + 1) % 2]',
    from: '    __syncthreads();\n',
    to: '',
    ...gemm,
  },
  {
    what: 'no barrier before the first step of a product',
    file: 'main_loop.cuh',
    after: 'store(shared.chunks[0]);',
    from: '    __syncthreads();\n',
    to: '',
    ...gemm,
  },
  {
    what: "no barrier of the warp between a product's sums and their stores",
    file: 'accumulators.cuh',
    after: 'sum[i][j][2 * low], sum[i][j][2 * low + 1]);',
    from: '      __syncwarp();\n',
    to: '',
    ...gemm,
  },
  {
    what: "no barrier before an adapter's t is multiplied",
    file: 'lora_kernel.cuh',
    after: '= loader.expand(v, r);',
    from: '      __syncthreads();\n',
    to: '',
    ...lora,
  },
  {
    what: "no barrier before the next term's first step",
    file: 'lora_kernel.cuh',
    after: 'multiply_step(tile, loader,',
    from: '      __syncthreads();\n',
    to: '',
    ...lora,
  },
  {
    what: "no barrier after attention's values arrive",
    after: 'tile.fetch(k, j + kKeys, h.keys, h);',
    from: '      __syncthreads();\n',
    to: '',
    ...attention,
  },
  {
    what: "no barrier after attention's keys arrive",
    after: '      tile.store(k_tile);\n',
    from: '      __syncthreads();\n',
    to: '',
    ...attention,
  },
  {
    what: "no barrier before the keys of dq's next tile are written",
    after: 'for (int j = 0; j < end; j += kKeys) {',
    from: '      __syncthreads();\n',
    to: '',
    ...attentionGrad,
  },
  {
    what: "no barrier before a group's sums of threads are added",
    after: 'struct GroupScratch',
    from: '  __syncthreads();\n',
    to: '',
    ...groupNorm,
    file: 'group_norm.cuh',
  },
  {
    what: 'no barrier in the sum of a block',
    file: 'optimizers.cu',
    from: '    __syncthreads();\n    if (threadIdx.x < half)',
    to: '    if (threadIdx.x < half)',
    unit: 'optimizers.cu',
    cases: 'AdamW',
  },
]

const guards: Mutation[] = [
  { what: 'lines beyond a matrix are read', file: 'tile.cuh', after: 'void fetch(', from: 'line >= m.lines || ', to: '', ...gemm },
  {
    what: 'elements beyond a line are read',
    file: 'tile.cuh',
    from: 'first + e < m.length ? from_float<T>(to_float',
    to: 'true ? from_float<T>(to_float',
    ...gemm,
  },
  {
    what: 'one column too many is stored',
    after: 'struct Accumulate',
    from: 'column + e < n',
    to: 'column + e <= n',
    ...weightGrad,
    file: 'epilogue.cuh',
  },
  {
    what: 'columns of a beyond the last are gated',
    from: 'column + c >= n / (kPaired ? 2 : 1)',
    to: 'column + c >= n',
    ...geglu,
    file: 'lora_kernel.cuh',
  },
  {
    what: 'rows above an image are read',
    file: 'conv_loaders.cuh',
    from: 'static_cast<unsigned>(y) < o.height',
    to: 'y < o.height',
    ...conv,
  },
  {
    what: "pixels right of an image add to a kernel's gradient",
    from: 'static_cast<unsigned>(c) < o.width',
    to: 'c >= 0',
    ...convWeightGrad,
  },
  {
    what: 'queries beyond the last are stored',
    file: 'attention.cuh',
    from: 'first + row < tokens && ',
    to: '',
    unit: 'attention.cu',
    cases: 'attention',
  },
  {
    what: 'an element beyond the last is mapped',
    file: 'pointwise.cu',
    from: 'if (first + N <= count) {',
    to: 'if (first <= count) {',
    unit: 'pointwise.cu',
    cases: 'activation',
  },
  {
    what: 'parameters beyond the last are updated',
    file: 'optimizers.cu',
    from: 'i < count; i += step) f(i)',
    to: 'i < count + N; i += step) f(i)',
    unit: 'optimizers.cu',
    cases: 'AdamW',
  },
]

const values: Mutation[] = [
  {
    what: 'the halves of b are swapped',
    file: 'mma.cuh',
    from: 'mma8<T>(c, a0, b0)',
    to: 'mma8<T>(c, a0, b1)',
    ...gemm,
  },
  {
    what: 'rows of a are swapped',
    file: 'mma.cuh',
    after: 'void mma8(',
    from: '"r"(a[0]), "r"(a[1]), "r"(b)',
    to: '"r"(a[1]), "r"(a[0]), "r"(b)',
    ...gemm,
  },
  { what: 'a transposed operand is loaded plain', file: 'mma.cuh', from: 'x4.trans.shared', to: 'x4.shared', ...gemm },
  {
    what: 'the first block of a gradient works at the one before it',
    from: '>= problems.each[p + 1]',
    to: '> problems.each[p + 1]',
    ...weightGrad,
  },
  {
    what: 'the last split of k is left out',
    file: 'epilogue.cuh',
    from: 's < splits',
    to: 's + 1 < splits',
    unit: 'matmul.cu',
    cases: 'mat_mul',
  },
  { what: 'the scale of a pair is left out', file: 'tile.cuh', from: 'to_float(from[e]) * m.scale', to: 'to_float(from[e])', ...gemm },
  {
    what: 'taps are read one pixel off',
    file: 'conv_loaders.cuh',
    from: '(kTransposed ? -t.i : t.i)',
    to: '(kTransposed ? -t.i : t.i + 1)',
    ...conv,
  },
  { what: "all taps of a kernel's gradient are the first", from: 'tap * o.y.length + n', to: 'n', ...convWeightGrad },
  {
    what: 'the scale of t is left out',
    file: 'accumulators.cuh',
    from: 'sum[i][j][2 * low + e] * scale',
    to: 'sum[i][j][2 * low + e]',
    ...lora,
  },
  {
    what: "the last split of an adapter's sums is left out",
    file: 'lora_kernel.cuh',
    from: 's <= segment.last',
    to: 's < segment.last',
    ...lora,
  },
  {
    what: 'columns of t are stored as columns of y',
    file: 'lora_kernel.cuh',
    from: 'c >= o.width / (kPaired ? 2 : 1) || ',
    to: '',
    ...lora,
  },
  {
    what: 'a and b of a GEGLU change places',
    from: '(n & 8 ? term_.w.lines / 2 : 0)',
    to: '(n & 8 ? 0 : term_.w.lines / 2)',
    ...geglu,
    file: 'lora_kernel.cuh',
  },
  { what: "b of a GEGLU gets a's bias", from: 'add_floats<8>(bias + f + column, b)', to: 'add_floats<8>(bias + column, b)', ...geglu },
  { what: "a GEGLU's gradient reads a as b", from: 'b(x + at + f)', to: 'b(x + at)', ...geglu },
  { what: 'a key beyond the last is seen', from: 'if (key >= h.keys ||', to: 'if (key > h.keys ||', ...attention },
  { what: 'a token does not see itself', from: '(causal && key > query', to: '(causal && key >= query', ...attention },
  { what: 'earlier sums are not scaled to the new maximum', from: 'sum[c][i] *= shrink[i / 2]', to: '', ...attention },
  { what: 'delta is added', from: '? 0 : p * (ds[n][i] - mean[i / 2])', to: '? 0 : p * (ds[n][i] + mean[i / 2])', ...attentionGrad },
  { what: "a token's dq leaves out itself", from: 'i % 2 > query', to: 'i % 2 >= query', ...attentionGrad },
  { what: 'a key is seen by the token before it', from: 'x / 2 * 8 > i + n * 8', to: 'x / 2 * 8 > i + 1 + n * 8', ...attentionGrad },
  {
    what: 'a token sees the next one in f32',
    file: 'attention_simt.cu',
    from: 'by_query ? token > row',
    to: 'by_query ? token > row + 1',
    unit: 'attention_simt.cu',
    cases: 'attention_grad causal',
  },
  {
    what: 'a row is gathered from the one before it',
    file: 'copies.cu',
    from: 'x[static_cast<int64_t>(row) * width + c]',
    to: 'x[static_cast<int64_t>(row ? row - 1 : 0) * width + c]',
    unit: 'copies.cu',
    cases: 'gather',
  },
  {
    what: 'the last of the gathered rows has no gradient',
    file: 'copies.cu',
    from: 'first < count; first += 32',
    to: 'first + 1 < count; first += 32',
    unit: 'copies.cu',
    cases: 'gather_grad',
  },
  { what: 'a split of the queries is left out', from: 's < splits; s++', to: 's + 1 < splits; s++', ...attentionGrad },
  {
    what: "a chunk of a group's positions is left out",
    after: 'group_statistics(',
    from: 'i < count; i += kThreads) sum +=',
    to: 'i + 1 < count; i += kThreads) sum +=',
    ...groupNorm,
  },
  { what: 'gradients are not set to 0', file: 'optimizers.cu', from: '      g[k] = 0;\n', to: '', unit: 'optimizers.cu', cases: 'AdamW' },
]

const waits: Mutation[] = [
  {
    what: 'kernels do not wait for uploads',
    file: 'backend.cu',
    from: '    CUDA(cudaStreamWaitEvent(kernels_, copied_, 0));\n',
    to: '',
    unit: 'backend.cu',
    cases: 'add [',
  },
  {
    what: 'a batch is loaded over one that no step has taken yet',
    file: 'backend.cu',
    from: '    if (after) CUDA(cudaStreamWaitEvent(copies_, static_cast<const CudaEvent&>(*after), 0));\n',
    to: '',
    unit: 'backend.cu',
    cases: 'a batch that is loaded',
  },
  {
    what: 'staging is filled while it is copied from',
    file: 'backend.cu',
    from: '    CUDA(cudaEventSynchronize(free_[current_]));\n',
    to: '',
    unit: 'backend.cu',
    cases: 'a batch that is loaded',
  },
  {
    what: 'results are read before they are there',
    file: 'backend.cu',
    from: '      CUDA(cudaStreamSynchronize(kernels_));\n',
    to: '',
    unit: 'backend.cu',
    cases: 'add [',
  },
]

export const mutations = [...barriers, ...guards, ...values, ...waits]
