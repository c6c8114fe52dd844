// Modules: kernels and variables of one PTX text (PTX ISA, "Kernel and Function Directives", "Variable Declarations").
#include <algorithm>
#include <cstring>
#include <mutex>

#include "decode.h"

namespace ptxemu {
namespace {

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

bool mentions(const Function& f, const std::string& name) {
  auto is_name = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$'; };
  for (auto& s : f.body)
    for (size_t at = 0; (at = s.text.find(name, at)) != std::string::npos; at += name.size())
      if (!(at && is_name(s.text[at - 1])) && !(at + name.size() < s.text.size() && is_name(s.text[at + name.size()]))) return true;
  return false;
}

// The function itself and all that it calls; a function that reaches itself is refused, its registers are fixed places.
void reachable(const Module::State& module, const Function& f, std::vector<const Function*>& all, std::vector<const Function*>& path) {
  if (std::find(path.begin(), path.end(), &f) != path.end())
    throw Error(ErrorKind::unknown_instruction, "the emulator does not know recursion: " + f.name);
  if (std::find(all.begin(), all.end(), &f) != all.end()) return;
  all.push_back(&f);
  path.push_back(&f);
  for (auto& s : f.body) {
    size_t call = s.kind == Statement::instruction ? s.text.find("call") : std::string::npos;
    if (call == std::string::npos || !(call == 0 || s.text[0] == '@')) continue;
    std::string_view rest = std::string_view(s.text).substr(call);
    size_t space = std::min(rest.find_first_of(" \t\n("), rest.size());
    for (auto part : split(rest.substr(space), ','))
      if (auto it = module.functions.find(std::string(part)); it != module.functions.end()) reachable(module, *it->second, all, path);
  }
  path.pop_back();
}

Kernel make_kernel(const Function& f, const Module* module) {
  Kernel k;
  k.name = f.name;
  k.module = module;
  k.max_threads = f.max_threads;
  k.required_threads = f.required_threads;
  k.min_blocks = f.min_blocks;
  for (auto& p : f.parameters) {
    k.parameter_bytes = round_up(k.parameter_bytes, p.align);
    k.parameters.push_back({p.name, k.parameter_bytes, p.bytes()});
    k.parameter_bytes += p.bytes();
  }
  for (auto& s : f.body)
    if (s.kind == Statement::declaration && s.text.starts_with(".local"))
      for (auto& d : parse_declarations(s.text, s.line)) k.local_bytes = round_up(k.local_bytes, d.align) + d.bytes();
  return k;
}

}  // namespace

SharedLayout layout_shared(const Module::State& module, const Function& entry) {
  SharedLayout layout;
  std::vector<const Function*> functions, path;
  reachable(module, entry, functions, path);
  std::vector<std::pair<std::string, size_t>> dynamic;
  size_t dynamic_align = 16;
  auto place = [&](const Declaration& d) {
    if (d.external || !d.count) {
      dynamic_align = std::max(dynamic_align, d.align);
      layout.dynamic[d.name] = 0;
    } else {
      layout.static_bytes = round_up(layout.static_bytes, d.align);
      layout.offsets[{d.name, d.line}] = layout.static_bytes;
      layout.static_bytes += d.bytes();
    }
  };
  for (auto& v : module.source.variables)
    if (v.space == Space::shared && std::any_of(functions.begin(), functions.end(), [&](auto* f) { return mentions(*f, v.name); }))
      place(v);
  for (auto* f : functions)
    for (auto& s : f->body)
      if (s.kind == Statement::declaration && s.text.find(".shared") != std::string::npos)
        for (auto& d : parse_declarations(s.text, s.line)) place(d);
  layout.dynamic_at = round_up(layout.static_bytes, dynamic_align);
  for (auto& [name, offset] : layout.dynamic) offset = layout.dynamic_at;
  return layout;
}

Module::Module() : state_(std::make_unique<State>()) {}
Module::~Module() = default;

std::unique_ptr<Module> Module::parse(const std::string& ptx, const std::string& name) {
  std::unique_ptr<Module> module(new Module);
  State& state = *module->state_;
  state.name = name;
  state.source = parse_source(ptx);
  for (auto& f : state.source.functions) {
    auto [it, fresh] = state.functions.try_emplace(f.name, &f);
    if (!fresh && f.defined) it->second = &f;  // a declaration came first
  }
  for (auto& f : state.source.functions) {
    if (!f.entry || !f.defined) continue;
    Kernel k = make_kernel(f, module.get());
    try {
      k.static_shared_bytes = layout_shared(state, f).static_bytes;
    } catch (const Error&) {
      // Said again when the kernel is decoded.
    }
    state.kernels[f.name] = k;
  }
  return module;
}

const std::string& Module::name() const { return state_->name; }
int Module::target() const { return state_->source.target; }
const Kernel* Module::kernel(const std::string& name) const {
  auto it = state_->kernels.find(name);
  return it == state_->kernels.end() ? nullptr : &it->second;
}
std::vector<const Kernel*> Module::kernels() const {
  std::vector<const Kernel*> all;
  for (auto& [name, k] : state_->kernels) all.push_back(&k);
  return all;
}
const Variable* Module::variable(const std::string& name) const {
  auto it = state_->variables.find(name);
  return it == state_->variables.end() ? nullptr : &it->second;
}

void Module::load(Memory& memory) {
  State& state = *state_;
  if (state.loaded) return;
  state.loaded = true;
  for (auto& d : state.source.variables) {
    if (d.space != Space::global && d.space != Space::constant) continue;
    uint64_t address = memory.allocate(std::max<size_t>(d.bytes(), 1));
    if (!address) throw Error(ErrorKind::limit, "no memory left for variable " + d.name);
    state.variables[d.name] = {d.name, address, d.bytes(), d.space == Space::constant};
  }
  for (auto& d : state.source.variables) {
    auto it = state.variables.find(d.name);
    if (it == state.variables.end() || !d.bytes()) continue;
    std::vector<char> image(d.bytes());  // what has no initial value is zero
    std::string flat = d.initial;
    std::erase_if(flat, [](char c) { return c == '{' || c == '}'; });
    size_t element = bytes(d.type), at = 0;
    for (auto value : split(flat, ',')) {
      uint64_t bits = 0;
      if (!parse_literal(value, d.type, bits)) {  // name, generic(name), name+8
        if (value.starts_with("generic(")) value = value.substr(8, value.find(')') - 8);
        size_t plus = value.find('+');
        auto other = state.variables.find(std::string(trim(value.substr(0, plus))));
        if (other == state.variables.end()) fail_ptx(d.line, "unknown initial value " + std::string(value) + " of " + d.name);
        bits = other->second.address + (plus == value.npos ? 0 : std::strtoull(std::string(value.substr(plus + 1)).c_str(), nullptr, 0));
      }
      if (at + element > image.size()) fail_ptx(d.line, "too many initial values: " + d.name);
      std::memcpy(image.data() + at, &bits, element);
      at += element;
    }
    memory.write(it->second.address, image.data(), image.size());
  }
}

void Module::unload(Memory& memory) {
  for (auto& [name, v] : state_->variables) memory.release(v.address);
  state_->variables.clear();
  state_->programs.clear();
  state_->loaded = false;
}

const Program& Module::State::program(const Kernel& kernel) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  auto& program = programs[&kernel];
  if (!program) {
    auto fresh = std::make_unique<Program>();
    Decoder(*this, kernel, *fresh).decode_kernel();
    program = std::move(fresh);
  }
  return *program;
}

void Module::decode(const Kernel& kernel) const { state_->program(kernel); }

std::map<std::string, int> Module::opcodes(const Kernel& kernel) const {
  std::map<std::string, int> counts;
  for (auto& s : state_->functions.at(kernel.name)->body) {
    if (s.kind != Statement::instruction) continue;
    std::string_view text = s.text;
    if (text.starts_with('@')) text = trim(text.substr(text.find_first_of(" \t\n")));
    counts[std::string(text.substr(0, text.find_first_of(" \t\n")))]++;
  }
  return counts;
}

}  // namespace ptxemu
