// What cannot be read, decoded or launched: text that is no PTX, instructions that are not known, limits of launches and of GPUs.
#include "device.h"

namespace ptxemu::test {
namespace {

const std::string good =
    ".visible .entry good(.param .u64 out)\n{\n  .reg .b64 %rd0;\n  ld.param.u64 %rd0, [out];\n  st.global.u32 [%rd0], 5;\n  ret;\n}\n";

// `line` cannot be executed: its kernel fails at the first launch and in decode(), the module's other kernel works.
void unknown(const std::string& name, const std::string& line, ErrorKind kind = ErrorKind::unknown_instruction) {
  test_case("refused: " + name, [=] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word, "  ", line, "\n  ret;\n}\n", good));
    const size_t at = device.ptx.find("  " + line);
    const int ptx_line = 1 + int(std::count(device.ptx.begin(), device.ptx.begin() + at, '\n'));
    const uint64_t out = device.upload(std::vector<uint32_t>(32));
    for (const bool launch : {true, false}) {
      const Error e =
          expect_error(kind, [&] { launch ? device.launch("k", {}, {32}, out) : device.module->decode(*device.module->kernel("k")); });
      const std::string what = e.what(), opcode = line.substr(0, line.find_first_of(" ;"));
      EXPECT(e.ptx_line == ptx_line, "PTX line: expected ", ptx_line, " but received ", e.ptx_line, " in: ", what);
      EXPECT(
          what.find(text("line ", ptx_line)) != std::string::npos && (kind == ErrorKind::bad_ptx || what.find(opcode) != std::string::npos),
          "not in the message: ", what);
    }
    device.module->decode(*device.module->kernel("good"));
    device.launch("good", {}, {1}, out);
    EXPECT(device.download<uint32_t>(out, 1)[0] == 5, "the other kernel");
  });
}

void instructions() {
  unknown("an instruction that does not exist", "frobnicate.f32 %r1, %r2;");
  unknown("a modifier that does not exist", "add.wobble.s32 %r1, %r2, %r3;");
  unknown("a type that does not exist", "add.s31 %r1, %r2, %r3;");
  unknown("a comparison that does not exist", "setp.about.s32 %p1, %r1, %r2;");
  unknown("a shape of mma that is not there",
          "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r1, %r2, %r3, %r4}, {%r0, %r0}, {%r0, %r0}, {%r1, %r2, %r3, %r4};");
  unknown("a texture fetch", "tex.2d.v4.f32.f32 {%r1, %r2, %r3, %r4}, [%rd1, {%r5, %r6}];");
  unknown("an instruction of Hopper alone", "wgmma.fence.sync.aligned;");
  unknown("a special register that does not exist", "mov.u32 %r1, %flavour;");
  unknown("a register that is not declared", "add.s32 %r1, %r2, %never;");
  unknown("a label that is not there", "bra NOWHERE;", ErrorKind::bad_ptx);
  unknown("too few operands", "add.s32 %r1, %r2;");
  unknown("a variable that is not declared", "ld.global.u32 %r1, [nothing];");
}

void text_that_is_no_ptx() {
  auto bad = [](const std::string& name, const std::string& ptx) {
    test_case("cannot be read: " + name, [=] { expect_error(ErrorKind::bad_ptx, [&] { Module::parse(ptx, "test"); }); });
  };
  const std::string header = ".version 9.0\n.target sm_75\n.address_size 64\n";
  bad("prose", "This is no PTX.\n");
  bad("a kernel without end", header + ".visible .entry k()\n{\n  ret;\n");
  bad("a statement without semicolon", header + ".visible .entry k()\n{\n  ret\n}\n");
  bad("32-bit addresses", ".version 9.0\n.target sm_75\n.address_size 32\n" + good);
  test_case("kernels, parameters and launch bounds can be asked for", [] {
    Device device(text(".visible .entry a(.param .u32 n, .param .align 8 .b8 s[24], .param .u8 c)\n.maxntid 128, 2, 1\n.minnctapersm 3\n{\n"
                       "  .shared .align 4 .b8 x[40];\n"
                       "  .local .align 8 .b8 y[24];\n  ret;\n}\n.entry b()\n.reqntid 64\n{\n  ret;\n}\n.func f() { ret; }\n"),
                  86);
    const Kernel* a = device.module->kernel("a");
    EXPECT(a && device.module->kernels().size() == 2 && !device.module->kernel("f"), device.module->kernels().size(), " kernels");
    EXPECT(a->parameters.size() == 3 && a->parameter_bytes == 33, a->parameter_bytes, " bytes of parameters");
    EXPECT(a->parameters[1].name == "s" && a->parameters[1].offset == 8 && a->parameters[2].offset == 32, "offsets");
    EXPECT(a->max_threads.count() == 256 && a->min_blocks == 3 && device.module->kernel("b")->required_threads.x == 64, "bounds");
    EXPECT(a->static_shared_bytes == 40 && a->local_bytes == 24, a->static_shared_bytes, " shared and ", a->local_bytes, " local bytes");
    EXPECT(device.module->target() == 86, "target ", device.module->target());
  });
  test_case("opcodes of a kernel are counted by their text", [] {
    Device device(text(".visible .entry k(.param .u64 out)\n{\n", own_word,
                       "  bar.sync 0;\n  bar.sync 0;\n  @%p1 add.s32 %r1, %r1, 1;\n  ret;\n}\n"));
    const std::map<std::string, int> opcodes = device.module->opcodes(*device.module->kernel("k"));
    EXPECT(opcodes.at("bar.sync") == 2 && opcodes.at("add.s32") == 1 && opcodes.at("ret") == 1, opcodes.size(), " opcodes");
  });
}

void launch_limits() {
  const std::string kernels =
      ".visible .entry k()\n{\n  ret;\n}\n.visible .entry bounded()\n.maxntid 96, 1, 1\n{\n  ret;\n}\n.visible .entry exact()\n"
      ".reqntid 32, 2, 1\n"
      "{\n  ret;\n}\n.visible .entry shared()\n{\n  .shared .align 4 .b8 s[8192];\n  st.shared.u32 [s], 1;\n  ret;\n}\n";
  struct Row {
    const char* what;
    const char* kernel;
    Dim3 grid, block;
    size_t dynamic, opted_in;
    LaunchLimit limit;
  };
  static const Row rows[] = {
      {"a full block", "k", {1}, {1024}, 0, 0, LaunchLimit::none},
      {"a block of three dimensions", "k", {3, 65535, 65535}, {2, 8, 64}, 0, 0, LaunchLimit::none},
      {"no blocks", "k", {0}, {32}, 0, 0, LaunchLimit::empty_dimension},
      {"no threads", "k", {1}, {32, 0, 1}, 0, 0, LaunchLimit::empty_dimension},
      {"1025 threads", "k", {1}, {1025}, 0, 0, LaunchLimit::block_dimension},
      {"1056 threads in two dimensions", "k", {1}, {32, 33}, 0, 0, LaunchLimit::block_dimension},
      {"65 threads along z", "k", {1}, {1, 1, 65}, 0, 0, LaunchLimit::block_dimension},
      {"65536 blocks along y", "k", {1, 65536}, {32}, 0, 0, LaunchLimit::grid_dimension},
      {"65536 blocks along z", "k", {1, 1, 65536}, {32}, 0, 0, LaunchLimit::grid_dimension},
      {"2^31 blocks along x", "k", {1u << 31}, {32}, 0, 0, LaunchLimit::grid_dimension},
      {"2^31 - 1 blocks along x", "k", {(1u << 31) - 1}, {32}, 0, 0, LaunchLimit::none},
      {"as many threads as .maxntid", "bounded", {1}, {96}, 0, 0, LaunchLimit::none},
      {"more threads than .maxntid", "bounded", {1}, {97}, 0, 0, LaunchLimit::kernel_threads},
      {"the threads of .reqntid", "exact", {1}, {32, 2}, 0, 0, LaunchLimit::none},
      {"fewer threads than .reqntid", "exact", {1}, {32}, 0, 0, LaunchLimit::kernel_threads},
      {"48 KB of dynamic shared memory", "k", {1}, {32}, 49152, 0, LaunchLimit::none},
      {"a byte more than 48 KB", "k", {1}, {32}, 49153, 0, LaunchLimit::shared_memory},
      {"48 KB, static and dynamic", "shared", {1}, {32}, 40960, 0, LaunchLimit::none},
      {"more than 48 KB, static and dynamic", "shared", {1}, {32}, 40964, 0, LaunchLimit::shared_memory},
      {"64 KB after opting in", "k", {1}, {32}, 65536, 65536, LaunchLimit::none},
      {"more than was opted in", "k", {1}, {32}, 60000, 59999, LaunchLimit::shared_memory},
      {"more than the gpu has", "k", {1}, {32}, 65540, 65540, LaunchLimit::shared_memory},
  };
  for (const Row& r : rows)
    test_case(text("launch limits: ", r.what), [&r, kernels] {
      Device device(kernels, 75);
      const LaunchLimit found = check({device.module->kernel(r.kernel), r.grid, r.block, r.dynamic, {}}, device.gpu, r.opted_in);
      EXPECT(found == r.limit, "expected ", name(r.limit), " but received ", name(found));
    });
  test_case("launch limits: too few bytes of parameters", [] {
    Device device(good);
    const LaunchLimit found = check({device.module->kernel("good"), {1}, {1}, 0, std::vector<std::byte>(4)}, device.gpu, 0);
    EXPECT(found == LaunchLimit::parameters, "received ", name(found));
  });
  test_case("run refuses what check refuses", [kernels] {
    Device device(kernels, 75);
    expect_error(ErrorKind::limit, [&] { device.launch("k", {1}, {2048}); });
  });
  test_case("gpus have the limits of their compute capability", [] {
    struct Limits {
      int capability;
      size_t opt_in;
      int threads_per_multiprocessor, blocks;
    };
    for (const Limits& l : {Limits{75, 64 << 10, 1024, 16},
                            {80, 163 << 10, 2048, 32},
                            {86, 99 << 10, 1536, 16},
                            {89, 99 << 10, 1536, 24},
                            {90, 227 << 10, 2048, 32},
                            {100, 227 << 10, 2048, 32},
                            {120, 99 << 10, 1536, 24}}) {
      const Gpu c = gpu(l.capability);
      EXPECT(c.compute_capability == l.capability && c.shared_per_block == 49152 && c.shared_per_block_opt_in == l.opt_in &&
                 c.threads_per_multiprocessor == l.threads_per_multiprocessor && c.blocks_per_multiprocessor == l.blocks,
             l.capability, ": ", c.shared_per_block_opt_in, ", ", c.threads_per_multiprocessor, ", ", c.blocks_per_multiprocessor);
    }
    expect_error(ErrorKind::limit, [] { gpu(74); });
  });
}

}  // namespace

SUITE(checks_module) {
  instructions();
  text_that_is_no_ptx();
  launch_limits();
}

}  // namespace ptxemu::test
