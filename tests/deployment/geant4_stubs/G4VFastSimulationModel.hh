#pragma once
#include "G4FastStep.hh"
#include "G4FastTrack.hh"
#include "G4ParticleDefinition.hh"
class G4VFastSimulationModel {
public:
    explicit G4VFastSimulationModel(const G4String& name);
    G4VFastSimulationModel(const G4String& name, G4Envelope* envelope, G4bool unique = false);
    virtual ~G4VFastSimulationModel() = default;
    virtual G4bool IsApplicable(const G4ParticleDefinition&) = 0;
    virtual G4bool ModelTrigger(const G4FastTrack&) = 0;
    virtual void DoIt(const G4FastTrack&, G4FastStep&) = 0;
    virtual G4bool AtRestModelTrigger(const G4FastTrack&) { return false; }
    virtual void AtRestDoIt(const G4FastTrack&, G4FastStep&) {}
    virtual void Flush() {}
    const G4String GetName() const { return name_; }

private:
    G4String name_;
};
