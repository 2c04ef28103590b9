#include "self_check.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <vector>

namespace rowspan {

namespace {

constexpr unsigned kSeconds = 5;  // it takes a millisecond
constexpr size_t kTokens = 43, kRows = 45, kColumns = 544;  // no whole tiles, panels or strips

std::vector<float> products(const Kernels& kernels, const Matrix& w, const std::vector<float>& x) {
    Barrier barrier;
    const Team alone = {0, 1, barrier};
    constexpr std::align_val_t kAlign{64};
    const auto release = [](void* memory) { operator delete(memory, kAlign); };
    const std::unique_ptr<void, decltype(release)> packed(
        operator new(kernels.int8_tokens_bytes(kTokens, kColumns), kAlign), release);
    std::vector<float> y(kTokens * kRows);
    kernels.pack_int8(x.data(), kTokens, kColumns, packed.get(),
                      {0, (kTokens + kernels.token_tile - 1) / kernels.token_tile});
    kernels.linear_int8(packed.get(), kTokens, w, nullptr, nullptr, y.data(), alone);
    return y;
}

bool same(const Kernels& kernels, const Kernels& proven) {
    std::minstd_rand random;
    std::vector<float> x(kTokens * kColumns);
    for (float& value : x) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
    const size_t panels = (kRows + kPanel - 1) / kPanel;
    std::vector<uint8_t> codes(panels * kPanel * kColumns);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random());

    for (const size_t group : {16, 32}) {
        std::vector<uint16_t> scales(panels * kPanel * kColumns / group);
        for (uint16_t& scale : scales) scale = static_cast<uint16_t>(0x2c00 + random() % 1024);  // 1/16 … 1/8
        const Matrix w{Codes::u8, codes.data(), scales.data(), nullptr, nullptr, nullptr, kRows, kColumns, group, 128};
        const std::vector<float> expected = products(proven, w, x), y = products(kernels, w, x);
        if (std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) != 0) return false;
    }
    return true;
}

}  // namespace

bool same_int8_products(const Kernels& kernels, const Kernels& proven) {
    const pid_t child = fork();
    if (child < 0) return false;
    if (child == 0) {
        for (const int fatal : {SIGILL, SIGSEGV, SIGBUS, SIGTRAP, SIGALRM}) std::signal(fatal, SIG_DFL);
        alarm(kSeconds);
        _exit(same(kernels, proven) ? 0 : 1);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return false;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace rowspan
